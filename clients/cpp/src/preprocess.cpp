// Source: runtime/preprocess.py, whose results these are bit for bit.
#include "vit_edge/preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "resize.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

constexpr double kMinCrop = 0.05;
constexpr double kRounding = 1e-6;
constexpr int kMaxSide = 1 << 16;

struct Size {
    std::int64_t width, height;
};

// As Python's `round`: halves to the even number, which is the default rounding mode.
std::int64_t round_half_even(double value) {
    return static_cast<std::int64_t>(std::nearbyint(value));
}

// The size before the crop, never smaller than the model's.
Size resized(const Preprocess& p, std::int64_t width, std::int64_t height) {
    const auto side = [&](int model) {
        const auto scaled = static_cast<std::int64_t>(std::floor(model / p.crop + kRounding));
        return std::max<std::int64_t>(model, scaled);
    };
    const std::int64_t wide = side(p.width), high = side(p.height);
    if (p.crop_mode == "squash") return {wide, high};
    if (wide != high) {
        const double scale = std::max(static_cast<double>(wide) / static_cast<double>(width),
                                      static_cast<double>(high) / static_cast<double>(height));
        return {
            std::max<std::int64_t>(p.width, round_half_even(static_cast<double>(width) * scale)),
            std::max<std::int64_t>(p.height, round_half_even(static_cast<double>(height) * scale))};
    }
    if (width <= height) return {wide, wide * height / width};
    return {high * width / height, high};
}

std::int64_t offset(const Preprocess& p, std::int64_t rest) {
    if (p.crop_mode == "center_floor") return rest / 2;
    return round_half_even(static_cast<double>(rest) / 2);
}

bool is_one_of(const std::string& value, std::initializer_list<const char*> known) {
    return std::any_of(known.begin(), known.end(), [&](const char* name) { return value == name; });
}

}  // namespace

void Preprocess::validate() const {
    if (!is_one_of(crop_mode, {"center", "center_floor", "squash"})) {
        throw InputError("crop mode " + crop_mode + " is none of center, center_floor, squash");
    }
    if (!is_one_of(interpolation, {"bicubic", "bilinear", "lanczos", "box"})) {
        throw InputError("interpolation " + interpolation +
                         " is none of bicubic, bilinear, lanczos, box");
    }
    if (height < 1 || height > kMaxSide || width < 1 || width > kMaxSide) {
        throw InputError("height " + std::to_string(height) + " or width " + std::to_string(width) +
                         " is out of range");
    }
    if (!(crop >= kMinCrop && crop <= 1)) {
        throw InputError("crop " + std::to_string(crop) + " is not between 0.05 and 1");
    }
    if (channels != 1 && channels != 3) {
        throw InputError(std::to_string(channels) + " channels: give 1 or 3");
    }
}

std::vector<std::uint8_t> Preprocess::operator()(const Picture& picture) const {
    if (picture.width < 1 || picture.height < 1) throw InputError("the picture has no pixels");
    const std::int64_t expected = std::int64_t{picture.width} * picture.height * picture.channels;
    if ((picture.channels != 1 && picture.channels != 3) ||
        static_cast<std::int64_t>(picture.pixels.size()) != expected) {
        throw InputError("the picture has " + std::to_string(picture.pixels.size()) +
                         " bytes: give width * height * channels of them, in 1 or 3 channels");
    }
    const Size size = resized(*this, picture.width, picture.height);
    // In floating point: the product of two that are out of all bounds would overflow.
    if (static_cast<double>(size.width) * static_cast<double>(size.height) > kMaxPixels) {
        throw InputError(std::to_string(picture.width) + "x" + std::to_string(picture.height) +
                         " pixels are too long and thin: cut the picture");
    }
    const Picture whole = resize(to_channels(picture, channels), static_cast<int>(size.width),
                                 static_cast<int>(size.height), interpolation);
    const std::int64_t left = offset(*this, size.width - width);
    const std::int64_t top = offset(*this, size.height - height);
    const std::size_t row = static_cast<std::size_t>(width) * channels;
    std::vector<std::uint8_t> frame(row * height);
    for (int y = 0; y < height; ++y) {
        const std::size_t from = static_cast<std::size_t>((top + y) * size.width + left) * channels;
        std::memcpy(&frame[y * row], &whole.pixels[from], row);
    }
    return frame;
}

}  // namespace vit_edge
