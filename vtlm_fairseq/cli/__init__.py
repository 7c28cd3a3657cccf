"""The commands, one thin `main` each."""
