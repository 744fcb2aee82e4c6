"""Values to protobuf and back."""
