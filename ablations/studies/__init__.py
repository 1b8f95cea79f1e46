"""The ready-made studies, one YAML file each."""
