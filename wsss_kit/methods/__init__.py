"""The methods: alternatives at one joint, from images and labels to maps."""
