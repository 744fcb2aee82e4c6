"""The RPCs: convert in, call what knows no transport, convert out."""
