"""Generated from proto/groupconv_server/inference/v2 by `make proto`: the Open Inference Protocol v2."""
