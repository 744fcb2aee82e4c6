"""Networks as values: their tensors, plans and reports. No I/O, no gRPC, no protobuf."""
