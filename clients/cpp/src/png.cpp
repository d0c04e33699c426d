// PNG by libpng, its samples converted as Pillow converts them: no gamma, alpha dropped, 16 bits of
// colour cut to 8, and 16 bits of grey divided by 257.
// Source: libpng-manual.txt; Pillow's PngImagePlugin.py (`_MODES`), runtime/pixels.py.
#include <png.h>

#include <csetjmp>
#include <cstring>
#include <optional>

#include "decoders.hpp"
#include "orientation.hpp"

namespace vit_edge {
namespace {

struct Source {
    const std::vector<std::uint8_t>* bytes;
    std::size_t at;
    char message[200];
};

// As in jpeg.cpp: libpng's errors leave by longjmp, over frames without destructors.
[[noreturn]] void on_error(png_structp png, png_const_charp message) {
    auto* source = static_cast<Source*>(png_get_error_ptr(png));
    std::strncpy(source->message, message, sizeof source->message - 1);
    png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void read_bytes(png_structp png, png_bytep target, png_size_t count) {
    auto* source = static_cast<Source*>(png_get_io_ptr(png));
    if (source->bytes->size() - source->at < count) png_error(png, "the file is truncated");
    std::memcpy(target, source->bytes->data() + source->at, count);
    source->at += count;
}

// Owns libpng's structures.
class Decoder {
public:
    explicit Decoder(Source& source) {
        png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning);
        if (png != nullptr) info = png_create_info_struct(png);
        if (info == nullptr) {
            png_destroy_read_struct(&png, nullptr, nullptr);
            throw std::runtime_error("libpng has no memory");
        }
    }
    ~Decoder() { png_destroy_read_struct(&png, &info, nullptr); }
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;

    png_structp png = nullptr;
    png_infop info = nullptr;
};

// Runs `steps`, of calls of libpng alone: no object with a destructor may live inside.
template <typename Steps>
void guarded(Decoder& decoder, const Source& source, const Steps& steps) {
    if (setjmp(png_jmpbuf(decoder.png)) != 0) throw std::runtime_error(source.message);
    steps();
}

// Pillow's "Raw profile type exif": a name, a length, and the bytes in hex.
std::vector<std::uint8_t> raw_profile(const std::string& text) {
    std::size_t at = 0;
    for (int line = 0; line < 3; ++line) {
        at = text.find('\n', at);
        if (at == std::string::npos) return {};
        ++at;
    }
    std::string digits;
    for (const char c : text.substr(at)) {
        if (std::isxdigit(static_cast<unsigned char>(c))) digits += c;
    }
    std::vector<std::uint8_t> bytes;
    for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
        bytes.push_back(static_cast<std::uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
    }
    return bytes;
}

int find_orientation(Decoder& decoder) {
    png_uint_32 size = 0;
    png_bytep data = nullptr;
    std::vector<std::uint8_t> exif;
    std::string xmp;
    const bool has_exif = png_get_eXIf_1(decoder.png, decoder.info, &size, &data) != 0;
    if (has_exif) exif.assign(data, data + size);
    png_textp texts = nullptr;
    int count = 0;
    png_get_text(decoder.png, decoder.info, &texts, &count);
    for (int i = 0; i < count; ++i) {
        const std::string key(texts[i].key);
        const std::string text(texts[i].text == nullptr ? "" : texts[i].text);
        if (key == "Raw profile type exif" && !has_exif) exif = raw_profile(text);
        if (key == "XML:com.adobe.xmp") xmp = text;
    }
    if (const auto orientation = exif_orientation(exif)) return *orientation;
    return xmp_orientation(xmp).value_or(1);
}

struct Layout {
    int depth;
    int color_type;
    int samples;  // in a row's pixel
};

// Samples as libpng gives them, unpacked to a byte, or two (the higher first), to grey or RGB.
void convert_row(const Layout& layout, const std::vector<std::uint8_t>& row,
                 const std::vector<std::uint8_t>& palette, int width, std::uint8_t* target) {
    const int step = layout.depth == 16 ? 2 : 1;
    for (int x = 0; x < width; ++x) {
        const std::uint8_t* sample = &row[static_cast<std::size_t>(x) * layout.samples * step];
        if (layout.color_type == PNG_COLOR_TYPE_PALETTE) {
            std::memcpy(target + 3 * x, &palette[3 * std::size_t{sample[0]}], 3);
        } else if (layout.color_type == PNG_COLOR_TYPE_GRAY && layout.depth == 16) {
            target[x] = static_cast<std::uint8_t>((sample[0] * 256 + sample[1]) / 257);
        } else if (layout.color_type == PNG_COLOR_TYPE_GRAY) {
            target[x] = static_cast<std::uint8_t>(sample[0] * (255 / ((1 << layout.depth) - 1)));
        } else if (layout.color_type == PNG_COLOR_TYPE_GRAY_ALPHA) {
            target[x] = sample[0];
        } else {
            for (int c = 0; c < 3; ++c) target[3 * x + c] = sample[c * step];
        }
    }
}

// 256 colours; those that the file does not list are a grey ramp, as in Pillow.
std::vector<std::uint8_t> read_palette(const Decoder& decoder) {
    std::vector<std::uint8_t> palette(3 * 256);
    for (std::size_t i = 0; i < palette.size(); ++i) palette[i] = static_cast<std::uint8_t>(i / 3);
    png_colorp colors = nullptr;
    int count = 0;
    if (png_get_PLTE(decoder.png, decoder.info, &colors, &count) != 0) {
        for (int i = 0; i < count && i < 256; ++i) {
            palette[3 * i] = colors[i].red;
            palette[3 * i + 1] = colors[i].green;
            palette[3 * i + 2] = colors[i].blue;
        }
    }
    return palette;
}

}  // namespace

Decoded decode_png(const std::vector<std::uint8_t>& bytes) {
    Source source{&bytes, 0, {}};
    Decoder decoder(source);
    png_structp png = decoder.png;
    png_infop info = decoder.info;
    png_uint_32 width = 0, height = 0;
    Layout layout{};
    int interlace = 0;
    guarded(decoder, source, [&] {
        png_set_read_fn(png, &source, read_bytes);
        png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
        png_read_info(png, info);
        png_get_IHDR(png, info, &width, &height, &layout.depth, &layout.color_type, &interlace,
                     nullptr, nullptr);
    });
    require_size(width, height);
    layout.samples = png_get_channels(png, info);
    int passes = 1;
    guarded(decoder, source, [&] {
        png_set_packing(png);
        passes = png_set_interlace_handling(png);
        png_read_update_info(png, info);
    });

    Decoded decoded;
    Picture& picture = decoded.picture;
    picture.width = static_cast<int>(width);
    picture.height = static_cast<int>(height);
    picture.channels = (layout.color_type & PNG_COLOR_MASK_COLOR) != 0 ? 3 : 1;
    const std::size_t row_bytes = static_cast<std::size_t>(width) * picture.channels;
    picture.pixels.resize(row_bytes * height);
    const auto palette = read_palette(decoder);
    // The passes of an interlaced picture fill in the rows of the ones before.
    const std::size_t raw_bytes = png_get_rowbytes(png, info);
    std::vector<std::uint8_t> rows(raw_bytes * (passes > 1 ? height : 1));
    std::vector<std::uint8_t> row(raw_bytes);
    for (int pass = 0; pass < passes; ++pass) {
        for (std::size_t y = 0; y < height; ++y) {
            std::uint8_t* raw = &rows[passes > 1 ? y * raw_bytes : 0];
            guarded(decoder, source, [&] { png_read_row(png, raw, nullptr); });
            if (pass + 1 < passes) continue;
            row.assign(raw, raw + raw_bytes);
            convert_row(layout, row, palette, picture.width, &picture.pixels[y * row_bytes]);
        }
    }
    guarded(decoder, source, [&] { png_read_end(png, info); });
    decoded.orientation = find_orientation(decoder);
    return decoded;
}

}  // namespace vit_edge
