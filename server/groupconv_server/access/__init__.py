"""Access control: TLS, tokens and rates."""
