// JPEG by libjpeg-turbo, with the settings of Pillow's decoder: the accurate integer DCT, smooth
// upsampling of colours, inverted CMYK.
// Source: libjpeg.txt of libjpeg-turbo; Pillow's JpegImagePlugin.py and JpegDecode.c.
#include <csetjmp>
#include <cstdio>
#include <cstring>

// clang-format off: each needs the ones before it
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include "decoders.hpp"
#include "orientation.hpp"

namespace vit_edge {
namespace {

constexpr unsigned kMarkerBytes = 0xffff;

// libjpeg reports errors by a function that must not return. C code cannot be unwound by an
// exception everywhere, so it is left by longjmp, over frames without destructors.
struct ErrorManager {
    jpeg_error_mgr base;  // must be the first: libjpeg hands its address back
    std::jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr info) {
    auto* manager = reinterpret_cast<ErrorManager*>(info->err);
    info->err->format_message(info, manager->message);
    std::longjmp(manager->escape, 1);
}

void on_message(j_common_ptr info, int level) {
    // Pillow refuses a file that ends early, where libjpeg would fill it with grey.
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) leave(info);
}

// Owns the decoder's memory.
class Decoder {
public:
    explicit Decoder(ErrorManager& errors) {
        info.err = jpeg_std_error(&errors.base);
        errors.base.error_exit = leave;
        errors.base.emit_message = on_message;
        errors.message[0] = '\0';
    }
    ~Decoder() { jpeg_destroy_decompress(&info); }
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;

    jpeg_decompress_struct info{};
};

// Runs `steps`, of calls of libjpeg alone: no object with a destructor may live inside.
template <typename Steps>
void guarded(ErrorManager& errors, const Steps& steps) {
    if (setjmp(errors.escape) != 0) throw std::runtime_error(errors.message);
    steps();
}

int find_orientation(const jpeg_decompress_struct& info) {
    static const std::string exif_id("Exif\0\0", 6), xmp_id("http://ns.adobe.com/xap/1.0/\0", 29);
    std::vector<std::uint8_t> exif;
    std::string xmp;
    for (auto* marker = info.marker_list; marker != nullptr; marker = marker->next) {
        const std::string content(reinterpret_cast<const char*>(marker->data), marker->data_length);
        if (content.compare(0, exif_id.size(), exif_id) == 0) {
            const std::size_t skipped = exif.empty() ? 0 : exif_id.size();
            exif.insert(exif.end(), content.begin() + skipped, content.end());
        } else if (content.compare(0, xmp_id.size(), xmp_id) == 0) {
            xmp = content.substr(xmp_id.size());
        }
    }
    if (const auto orientation = exif_orientation(exif)) return *orientation;
    return xmp_orientation(xmp).value_or(1);
}

// Source: Pillow's `cmyk2rgb`, with its rounded division by 255; the file's values are inverted.
void cmyk_to_rgb(const std::uint8_t* inverted, std::uint8_t* rgb) {
    const int light = inverted[3];
    for (int c = 0; c < 3; ++c) {
        const int product = (255 - inverted[c]) * light + 128;
        const int value = light - (((product >> 8) + product) >> 8);
        rgb[c] = static_cast<std::uint8_t>(value < 0 ? 0 : value);
    }
}

}  // namespace

Decoded decode_jpeg(const std::vector<std::uint8_t>& bytes) {
    ErrorManager errors;
    Decoder decoder(errors);
    jpeg_decompress_struct& info = decoder.info;
    guarded(errors, [&] {
        jpeg_create_decompress(&info);
        jpeg_mem_src(&info, bytes.data(), bytes.size());
        jpeg_save_markers(&info, JPEG_APP0 + 1, kMarkerBytes);
        jpeg_read_header(&info, TRUE);
    });
    require_size(info.image_width, info.image_height);
    const int stored = info.num_components;
    if (stored != 1 && stored != 3 && stored != 4) {
        throw std::runtime_error("a JPEG of " + std::to_string(stored) + " channels");
    }
    info.out_color_space = stored == 1 ? JCS_GRAYSCALE : stored == 3 ? JCS_RGB : JCS_CMYK;
    info.dct_method = JDCT_ISLOW;
    info.do_fancy_upsampling = TRUE;
    guarded(errors, [&] { jpeg_start_decompress(&info); });

    Decoded decoded;
    decoded.orientation = find_orientation(info);  // libjpeg frees its markers at the end
    Picture& picture = decoded.picture;
    picture.width = static_cast<int>(info.output_width);
    picture.height = static_cast<int>(info.output_height);
    picture.channels = stored == 1 ? 1 : 3;
    const std::size_t row_bytes = static_cast<std::size_t>(picture.width) * picture.channels;
    picture.pixels.resize(row_bytes * picture.height);
    std::vector<std::uint8_t> row(static_cast<std::size_t>(picture.width) * stored);
    for (int y = 0; y < picture.height; ++y) {
        std::uint8_t* target = &picture.pixels[y * row_bytes];
        JSAMPROW into = stored == 4 ? row.data() : target;
        guarded(errors, [&] { jpeg_read_scanlines(&info, &into, 1); });
        for (int x = 0; stored == 4 && x < picture.width; ++x) {
            cmyk_to_rgb(&row[4 * static_cast<std::size_t>(x)], target + 3 * x);
        }
    }
    guarded(errors, [&] { jpeg_finish_decompress(&info); });
    return decoded;
}

}  // namespace vit_edge
