"""The methods: alternatives at one joint, from pictures and labels to maps."""
