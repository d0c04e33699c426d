// From outputs to answers: the likeliest classes or labels.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "vit_edge/manifest.hpp"

namespace vit_edge {

struct Answer {
    std::string label;  // or the index in words where the bundle has no names
    int index = 0;
    double probability = 0.0;
};

// The `k` likeliest of an image's values of `output`, the likeliest first, of equals the one with
// the lower index. Throws InputError if they are not finite, or the output has no classes.
std::vector<Answer> top(const std::vector<float>& values, const OutputSpec& output,
                        const std::optional<std::vector<std::string>>& labels, int k);

}  // namespace vit_edge
