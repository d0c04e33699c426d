// Source: Pillow's `src/libImaging/Resample.c`: weights in double, rounded to fixed point of 22
// bits, rows and columns one after the other, each rounded to 8 bits.
#include "resize.hpp"

#include <algorithm>
#include <cmath>

#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bilinear(double x) {
    x = std::fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

double sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= M_PI;
    return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Filter {
    double (*weight)(double);
    double support;
};

Filter find_filter(const std::string& name) {
    if (name == "box") return {box, 0.5};
    if (name == "bilinear") return {bilinear, 1.0};
    if (name == "bicubic") return {bicubic, 2.0};
    if (name == "lanczos") return {lanczos, 3.0};
    throw InputError("interpolation " + name + " is none of bicubic, bilinear, lanczos, box");
}

// The inputs that an output is made of, and their weights in fixed point.
struct Taps {
    int first;
    std::vector<int> weights;
};

std::vector<Taps> make_taps(int input, int output, const Filter& filter) {
    const double scale = static_cast<double>(input) / output;
    const double filter_scale = std::max(scale, 1.0);
    const double support = filter.support * filter_scale;
    const double inverse = 1.0 / filter_scale;
    std::vector<Taps> all(output);
    std::vector<double> weights;
    for (int i = 0; i < output; ++i) {
        const double center = (i + 0.5) * scale;
        const int first = std::max(0, static_cast<int>(center - support + 0.5));
        const int end = std::min(input, static_cast<int>(center + support + 0.5));
        weights.clear();
        double sum = 0.0;
        for (int x = 0; x < end - first; ++x) {
            weights.push_back(filter.weight((x + first - center + 0.5) * inverse));
            sum += weights.back();
        }
        all[i].first = first;
        for (double weight : weights) {
            if (sum != 0.0) weight /= sum;
            const double fixed = weight * (1 << kPrecisionBits);
            all[i].weights.push_back(static_cast<int>(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
        }
    }
    return all;
}

std::uint8_t rounded(int sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
}

Picture resize_rows(const Picture& picture, int width, const Filter& filter) {
    const auto taps = make_taps(picture.width, width, filter);
    const int channels = picture.channels;
    Picture result{width, picture.height, channels, {}};
    result.pixels.resize(static_cast<std::size_t>(width) * picture.height * channels);
    for (int y = 0; y < picture.height; ++y) {
        const std::size_t row = static_cast<std::size_t>(y) * picture.width;
        std::uint8_t* target = &result.pixels[static_cast<std::size_t>(y) * width * channels];
        for (int x = 0; x < width; ++x) {
            const std::uint8_t* source = &picture.pixels[(row + taps[x].first) * channels];
            for (int c = 0; c < channels; ++c) {
                int sum = 1 << (kPrecisionBits - 1);
                for (std::size_t k = 0; k < taps[x].weights.size(); ++k) {
                    sum += source[k * channels + c] * taps[x].weights[k];
                }
                *target++ = rounded(sum);
            }
        }
    }
    return result;
}

Picture resize_columns(const Picture& picture, int height, const Filter& filter) {
    const auto taps = make_taps(picture.height, height, filter);
    const std::size_t row = static_cast<std::size_t>(picture.width) * picture.channels;
    Picture result{picture.width, height, picture.channels, {}};
    result.pixels.resize(row * height);
    std::vector<int> sums(row);
    for (int y = 0; y < height; ++y) {
        std::fill(sums.begin(), sums.end(), 1 << (kPrecisionBits - 1));
        for (std::size_t k = 0; k < taps[y].weights.size(); ++k) {
            const std::uint8_t* source = &picture.pixels[(taps[y].first + k) * row];
            const int weight = taps[y].weights[k];
            for (std::size_t x = 0; x < row; ++x) sums[x] += source[x] * weight;
        }
        std::transform(sums.begin(), sums.end(), &result.pixels[y * row], rounded);
    }
    return result;
}

}  // namespace

Picture resize(const Picture& picture, int width, int height, const std::string& filter) {
    const Filter chosen = find_filter(filter);
    const bool is_wide = width != picture.width, is_high = height != picture.height;
    // Since version 13 (pull request 9549), where the height shrinks by more than twice as many
    // pixels as the width, Pillow resizes columns first, and rounds in another order.
    if (is_wide && height < picture.height &&
        picture.height - height > 2 * (picture.width - width)) {
        return resize_rows(resize_columns(picture, height, chosen), width, chosen);
    }
    Picture result = picture;
    if (is_wide) result = resize_rows(result, width, chosen);
    if (is_high) result = resize_columns(result, height, chosen);
    return result;
}

}  // namespace vit_edge
