"""Says why a precision is not faster than a higher one on the same backend.

`openvino`, `onnxruntime` and `tensorrt` say what the kernels of a call are, `kernels` has their
kinds, `work` sums them up, `cause` compares two engines, `slow` finds the pairs and `show` has the
words of the tables.
"""
