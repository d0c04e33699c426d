// For the tests: reads jobs from standard input, a line each, and answers each with a line.
//   frame PICTURE OUT.npy HEIGHT WIDTH CHANNELS CROP INTERPOLATION CROP_MODE
//   manifest FILE | golden FILE HEIGHT WIDTH CHANNELS OUTPUTS | onnx FILE | picture FILE
// An answer is "ok", or "error: " and the message of an error that vit-edge raises on purpose; any
// other exception ends the process, as a crash would.
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "npy.hpp"
#include "onnx_files.hpp"
#include "vit_edge/error.hpp"
#include "vit_edge/golden.hpp"
#include "vit_edge/manifest.hpp"
#include "vit_edge/picture.hpp"
#include "vit_edge/preprocess.hpp"

namespace {

std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void make_frame(std::istringstream& words) {
    std::string picture, out;
    vit_edge::Preprocess p;
    words >> picture >> out >> p.height >> p.width >> p.channels >> p.crop >> p.interpolation >>
        p.crop_mode;
    p.validate();
    vit_edge::write_npy(out, p(vit_edge::read_picture(picture)), {p.height, p.width, p.channels});
}

void parse_samples(std::istringstream& words) {
    std::string path;
    vit_edge::EngineSpec spec;
    int outputs = 0;
    words >> path >> spec.image_shape[0] >> spec.image_shape[1] >> spec.image_shape[2] >> outputs;
    spec.outputs = {{"logits", "logits", {outputs}, std::nullopt}};
    vit_edge::parse_golden(contents(path), spec);
}

void answer(const std::string& line) {
    std::istringstream words(line);
    std::string job, path;
    words >> job;
    if (job == "frame") return make_frame(words);
    if (job == "golden") return parse_samples(words);
    words >> path;
    if (job == "manifest") vit_edge::parse_manifest(contents(path));
    if (job == "onnx") vit_edge::external_locations(contents(path));
    if (job == "picture") vit_edge::read_picture(path);
}

}  // namespace

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        try {
            answer(line);
            std::cout << "ok" << std::endl;
        } catch (const vit_edge::Error& error) {
            std::cout << "error: " << error.what() << std::endl;
        }
    }
}
