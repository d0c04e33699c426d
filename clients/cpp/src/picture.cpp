#include "vit_edge/picture.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "decoders.hpp"
#include "orientation.hpp"
#include "plain_text.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

bool starts_with(const std::vector<std::uint8_t>& bytes, const std::string& magic) {
    return bytes.size() >= magic.size() &&
           std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

}  // namespace

Picture to_channels(const Picture& picture, int channels) {
    if (picture.channels == channels) return picture;
    Picture result{picture.width, picture.height, channels, {}};
    const std::size_t count = static_cast<std::size_t>(picture.width) * picture.height;
    result.pixels.resize(count * channels);
    for (std::size_t i = 0; i < count; ++i) {
        if (channels == 3) {
            for (int c = 0; c < 3; ++c) result.pixels[3 * i + c] = picture.pixels[i];
            continue;
        }
        // ITU-R BT.601 in 16 bits, as Pillow's `convert("L")` has it.
        const std::uint8_t* rgb = &picture.pixels[3 * i];
        const std::uint32_t luma = rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u;
        result.pixels[i] = static_cast<std::uint8_t>((luma + (1u << 15)) >> 16);
    }
    return result;
}

Picture decode_picture(const std::vector<std::uint8_t>& bytes, const std::string& name) {
    try {
        Decoded decoded;
        if (starts_with(bytes, "\xff\xd8\xff")) {
            decoded = decode_jpeg(bytes);
        } else if (starts_with(bytes, "\x89PNG\r\n\x1a\n")) {
            decoded = decode_png(bytes);
        } else {
            throw std::runtime_error("neither JPEG nor PNG");
        }
        return turned(std::move(decoded.picture), decoded.orientation);
    } catch (const std::exception& error) {
        throw InputError(name + " is not a readable image (" + plain(error.what()) +
                         "): remove or replace it");
    }
}

Picture read_picture(const std::string& path) {
    std::error_code problem;
    const auto status = std::filesystem::status(path, problem);
    if (!std::filesystem::exists(status)) throw InputError("there is no image at " + path);
    // Opening a pipe would hang.
    if (!std::filesystem::is_regular_file(status)) throw InputError(path + " is not a file");
    std::ifstream file(path, std::ios::binary);
    if (!file) throw InputError(path + " cannot be read (" + std::strerror(errno) + ")");
    const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
    return decode_picture(bytes, path);
}

}  // namespace vit_edge
