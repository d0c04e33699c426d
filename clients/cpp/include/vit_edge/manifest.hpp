// The types of `manifest.json`, a bundle's description of itself: what an application needs of it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "vit_edge/preprocess.hpp"

namespace vit_edge {

inline constexpr int kSchemaVersion = 8;
inline constexpr int kOldestSchema = 3;

struct FileEntry {
    std::string sha256;  // in hex
    std::int64_t size = 0;
};

// An output: float32 [N, *shape].
struct OutputSpec {
    std::string name;
    std::string kind;  // logits, probabilities, multilabel, embedding, map, ...
    std::vector<int> shape;
    std::optional<double> scale;  // errors are relative to it; none in older bundles

    std::int64_t size() const;
    bool classifies() const { return kind == "logits" || kind == "probabilities"; }
    bool is_of_labels() const { return kind == "multilabel" || kind == "label_probabilities"; }
};

// Input and outputs of every engine: uint8 [batch, height, width, channels] in, outputs out.
struct EngineSpec {
    std::string input_name;
    std::vector<OutputSpec> outputs;
    std::array<int, 3> image_shape{};
    std::array<int, 3> batch{};  // least, best and largest

    std::int64_t image_bytes() const;
    std::int64_t width() const;  // numbers that an image has in all outputs
    // The output whose values labels name: the first of classes or labels, or else the first map of
    // several channels; nullptr if there is none.
    const OutputSpec* labelled() const;
};

// A prebuilt engine.
struct EngineEntry {
    std::string file;
    std::string backend;
    std::string version;
    std::vector<std::string> compute_capabilities;
};

// An ONNX file of a precision.
struct Graph {
    std::string file;
    std::vector<std::string> external;  // files beside it that hold its weights
    std::map<std::string, double> rms_tolerance;
    std::optional<int> rank;  // place in the order of precisions, lowest first
};

struct PrecisionEntry {
    std::map<std::string, Graph> graphs;  // by kind of backend: "cpu", "gpu"
    std::vector<EngineEntry> engines;
};

struct Manifest {
    int schema_version = 0;
    std::string name;
    EngineSpec spec;
    Preprocess preprocess;
    std::optional<std::vector<std::string>> labels;
    std::map<std::string, PrecisionEntry> precisions;
    std::map<std::string, FileEntry> files;
    std::optional<std::string> statistics;  // file of the reference's statistics
};

// Parses the bytes of `manifest.json`. Throws BundleError if they are not a manifest of a schema
// that this version reads.
Manifest parse_manifest(const std::string& text);

}  // namespace vit_edge
