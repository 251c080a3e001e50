"""What ``python -m wsss_kit`` runs: each command is a function with its arguments."""
