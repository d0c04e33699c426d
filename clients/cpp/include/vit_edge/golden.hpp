// Golden samples: images with PyTorch's outputs, and the comparison with an engine's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vit_edge/manifest.hpp"

namespace vit_edge {

struct GoldenSamples {
    std::int64_t count = 0;
    std::vector<std::uint8_t> images;  // [count, height, width, channels]
    std::vector<float> outputs;        // [count, width], PyTorch's in fp32, side by side
};

// The samples in the bytes of `golden.npz`. Throws BundleError if they are damaged or do not fit.
GoldenSamples parse_golden(const std::string& raw, const EngineSpec& spec);

// An output's error over samples: root mean square of the difference, relative to its scale.
struct GoldenError {
    std::string output;
    double rms = 0.0;
    double tolerance = 0.0;
};

// Compares `mine` [n, width] with the first n of the golden outputs; one row for each output.
// Values that are not finite have an infinite error.
std::vector<GoldenError> golden_errors(const std::vector<float>& mine, const GoldenSamples& golden,
                                       const EngineSpec& spec, const Graph& graph);

// Says how far the worst output is off; nothing where all are within the graph's tolerance.
std::optional<std::string> tolerance_violation(const std::vector<GoldenError>& errors);

}  // namespace vit_edge
