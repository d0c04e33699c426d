"""ONNX files of other exporters, made into the graph that our own exporter writes."""
