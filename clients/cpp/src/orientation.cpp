// Source: Exif 2.32, tag 0x0112; TIFF 6.0, image file directories; Pillow's
// `ImageOps.exif_transpose` and `Image.getexif`.
#include "orientation.hpp"

#include <cstring>
#include <regex>

namespace vit_edge {
namespace {

constexpr int kOrientation = 0x0112;
constexpr int kByte = 1, kShort = 3, kLong = 4;

// Reads numbers of a TIFF block; outside of it is nullopt.
class Reader {
public:
    Reader(const std::uint8_t* data, std::size_t size, bool little)
        : data_(data), size_(size), little_(little) {}

    std::optional<std::uint32_t> read(std::size_t at, int bytes) const {
        if (at > size_ || size_ - at < static_cast<std::size_t>(bytes)) return std::nullopt;
        std::uint32_t value = 0;
        for (int i = 0; i < bytes; ++i) {
            const int shift = 8 * (little_ ? i : bytes - 1 - i);
            value |= static_cast<std::uint32_t>(data_[at + i]) << shift;
        }
        return value;
    }

private:
    const std::uint8_t* data_;
    std::size_t size_;
    bool little_;
};

}  // namespace

std::optional<int> exif_orientation(const std::vector<std::uint8_t>& exif) {
    const std::uint8_t* data = exif.data();
    std::size_t size = exif.size();
    while (size >= 6 && std::memcmp(data, "Exif\0\0", 6) == 0) {
        data += 6;
        size -= 6;
    }
    if (size < 8) return std::nullopt;
    const bool little = data[0] == 'I' && data[1] == 'I';
    if (!little && !(data[0] == 'M' && data[1] == 'M')) return std::nullopt;
    const Reader reader(data, size, little);
    const auto directory = reader.read(4, 4);
    const auto count = reader.read(*directory, 2);
    std::optional<int> orientation;
    for (std::uint32_t i = 0; count && i < *count; ++i) {
        const std::size_t entry = std::size_t{*directory} + 2 + 12 * std::size_t{i};
        const auto tag = reader.read(entry, 2), type = reader.read(entry + 2, 2);
        const auto values = reader.read(entry + 4, 4);
        if (!tag || !type || !values) break;
        if (*tag != kOrientation || *values != 1) continue;
        std::optional<std::uint32_t> value;
        if (*type == kByte) value = reader.read(entry + 8, 1);
        if (*type == kShort) value = reader.read(entry + 8, 2);
        if (*type == kLong) value = reader.read(entry + 8, 4);
        if (value) orientation = static_cast<int>(*value);
    }
    return orientation;
}

std::optional<int> xmp_orientation(const std::string& xmp) {
    static const std::regex pattern("tiff:Orientation(=\"|>)([0-9])");
    std::smatch match;
    if (!std::regex_search(xmp, match, pattern)) return std::nullopt;
    return match[2].str()[0] - '0';
}

Picture turned(Picture picture, int orientation) {
    if (orientation < 2 || orientation > 8) return picture;
    const int width = picture.width, height = picture.height, channels = picture.channels;
    const bool swaps = orientation >= 5;
    Picture result{swaps ? height : width, swaps ? width : height, channels, {}};
    result.pixels.resize(picture.pixels.size());
    for (int y = 0; y < result.height; ++y) {
        for (int x = 0; x < result.width; ++x) {
            int from_x = swaps ? y : x, from_y = swaps ? x : y;
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) {
                from_x = width - 1 - from_x;
            }
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) {
                from_y = height - 1 - from_y;
            }
            const std::size_t to = (static_cast<std::size_t>(y) * result.width + x) * channels;
            const std::size_t from = (static_cast<std::size_t>(from_y) * width + from_x) * channels;
            std::memcpy(&result.pixels[to], &picture.pixels[from], channels);
        }
    }
    return result;
}

}  // namespace vit_edge
