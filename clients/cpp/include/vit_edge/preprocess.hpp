// The manifest's description of how a picture becomes the model's input, and the one function that
// does it. Equal to `runtime/preprocess.py` bit for bit. Normalisation is in the graph.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vit_edge/picture.hpp"

namespace vit_edge {

struct Preprocess {
    int height = 0;
    int width = 0;
    int channels = 0;  // 1: grey, 3: RGB
    double crop = 1.0;
    std::string interpolation;  // bicubic, bilinear, lanczos, box
    std::string crop_mode;      // center, center_floor, squash

    // Throws InputError where a field is out of its range.
    void validate() const;

    // Returns uint8 [height, width, channels]. Throws InputError if the picture is beyond reason.
    std::vector<std::uint8_t> operator()(const Picture& picture) const;
};

}  // namespace vit_edge
