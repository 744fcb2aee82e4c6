"""Networks on one worker: sessions of onnxruntime, our own programs beside them, and which of the two answers."""
