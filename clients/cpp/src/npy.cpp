// Source: `numpy.lib.format`, version 1.0; libzip(3).
#include "npy.hpp"

#include <zip.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <regex>
#include <stdexcept>

#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

constexpr std::int64_t kMaxSamples = 1 << 16;
constexpr std::size_t kMaxHeader = 256;
constexpr std::size_t kChunk = std::size_t{1} << 20;
constexpr std::int64_t kMaxArrayBytes = std::int64_t{1} << 33;
const std::string kMagic("\x93NUMPY\x01\x00", 8);

using Archive = std::unique_ptr<zip_t, decltype(&zip_discard)>;
using Stream = std::unique_ptr<zip_file_t, decltype(&zip_fclose)>;

Archive open_archive(const std::string& bytes) {
    zip_error_t error;
    zip_error_init(&error);
    const std::unique_ptr<zip_error_t, decltype(&zip_error_fini)> cleanup(&error, zip_error_fini);
    zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
    if (source == nullptr) throw std::runtime_error(zip_error_strerror(&error));
    zip_t* archive = zip_open_from_source(source, ZIP_RDONLY, &error);
    if (archive == nullptr) {
        const std::string reason = zip_error_strerror(&error);
        zip_source_free(source);
        throw std::runtime_error(reason);
    }
    return {archive, zip_discard};
}

// Reads exactly `size` bytes.
void read_exactly(zip_file_t* stream, char* target, std::size_t size) {
    for (std::size_t done = 0; done < size;) {
        const zip_int64_t count = zip_fread(stream, target + done, size - done);
        if (count < 0) throw std::runtime_error(zip_file_strerror(stream));
        if (count == 0) throw std::runtime_error("an array ends early");
        done += static_cast<std::size_t>(count);
    }
}

// The stream must end here; its checksum is compared there.
void require_end(zip_file_t* stream) {
    char more = 0;
    const zip_int64_t count = zip_fread(stream, &more, 1);
    if (count < 0) throw std::runtime_error(zip_file_strerror(stream));
    if (count > 0) throw std::runtime_error("an array is longer than its header says");
}

// The first dimension of an array whose header is as expected.
std::int64_t read_count(zip_file_t* stream, const ExpectedArray& expected) {
    static const std::regex form(
        R"(\{'descr': '([|<][uif][1-8])', 'fortran_order': False, )"
        R"('shape': \(([1-9][0-9]{0,7})(?:,|((?:, [1-9][0-9]{0,7}){1,3}))\), \} *\n)");
    std::string start(kMagic.size() + 2, '\0');
    read_exactly(stream, &start[0], start.size());
    const auto low = static_cast<unsigned char>(start[8]),
               high = static_cast<unsigned char>(start[9]);
    const std::size_t length = low + 256u * high;
    if (start.compare(0, kMagic.size(), kMagic) != 0 || length > kMaxHeader) {
        throw std::runtime_error(expected.name + " is no array of numpy's format 1.0");
    }
    std::string header(length, '\0');
    read_exactly(stream, &header[0], length);
    std::smatch match;
    if (!std::regex_match(header, match, form)) {
        throw std::runtime_error("the header of " + expected.name + " is not numpy's");
    }
    std::string rest;
    for (const std::int64_t side : expected.rest) rest += ", " + std::to_string(side);
    const std::int64_t count = std::stoll(match[2].str());
    if (match[1].str() != expected.dtype || match[3].str() != rest || count > kMaxSamples) {
        throw std::runtime_error(expected.name + " is " + match[1].str() + " [" + match[2].str() +
                                 match[3].str() + "]: it does not fit the manifest");
    }
    return count;
}

Array read_array(zip_t* archive, zip_uint64_t index, const ExpectedArray& expected) {
    zip_stat_t status;
    zip_stat_init(&status);
    if (zip_stat_index(archive, index, 0, &status) != 0) {
        throw std::runtime_error(zip_strerror(archive));
    }
    const bool known = (status.valid & ZIP_STAT_COMP_METHOD) != 0 &&
                       (status.comp_method == ZIP_CM_STORE || status.comp_method == ZIP_CM_DEFLATE);
    if (!known) throw std::runtime_error("compression is neither stored nor deflated");
    const Stream stream(zip_fopen_index(archive, index, 0), zip_fclose);
    if (stream == nullptr) throw std::runtime_error(zip_strerror(archive));
    Array array;
    array.count = read_count(stream.get(), expected);
    std::int64_t bytes = array.count * expected.item_bytes;
    for (const std::int64_t side : expected.rest) {
        if (bytes > kMaxArrayBytes / side)
            throw std::runtime_error(expected.name + " is too large");
        bytes *= side;
    }
    // Memory grows with what is there, not with what the header promises.
    while (static_cast<std::int64_t>(array.bytes.size()) < bytes) {
        const std::size_t start = array.bytes.size();
        const auto rest = static_cast<std::size_t>(bytes) - start;
        array.bytes.resize(start + std::min(rest, kChunk));
        read_exactly(stream.get(), &array.bytes[start], array.bytes.size() - start);
    }
    require_end(stream.get());
    return array;
}

void write_file(const std::string& path, const std::string& header_text, const char* data,
                std::size_t size) {
    std::string header = header_text;
    // The data begin at a multiple of 64 bytes.
    header.append(63 - (kMagic.size() + 2 + header.size()) % 64, ' ');
    header += '\n';
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << kMagic << static_cast<char>(header.size() & 0xff)
         << static_cast<char>(header.size() >> 8) << header;
    file.write(data, static_cast<std::streamsize>(size));
    file.close();
    if (!file) throw InputError(path + " cannot be written (" + std::strerror(errno) + ")");
}

std::string header_of(const std::string& dtype, const std::string& shape) {
    return "{'descr': '" + dtype + "', 'fortran_order': False, 'shape': (" + shape + "), }";
}

}  // namespace

std::map<std::string, Array> read_npz(const std::string& archive,
                                      const std::vector<ExpectedArray>& expected) {
    const Archive opened = open_archive(archive);
    std::map<std::string, Array> arrays;
    const zip_int64_t count = zip_get_num_entries(opened.get(), 0);
    for (zip_int64_t i = 0; i < count; ++i) {
        const auto index = static_cast<zip_uint64_t>(i);
        const char* name = zip_get_name(opened.get(), index, 0);
        const ExpectedArray* known = nullptr;
        for (const ExpectedArray& one : expected) {
            if (name != nullptr && one.name + ".npy" == name) known = &one;
        }
        if (known == nullptr || arrays.count(known->name) != 0) {
            throw std::runtime_error("a file in it does not belong there");
        }
        arrays.emplace(known->name, read_array(opened.get(), index, *known));
    }
    return arrays;
}

void write_npy(const std::string& path, const std::vector<float>& values, std::int64_t rows) {
    const auto columns = static_cast<std::int64_t>(values.size()) / (rows == 0 ? 1 : rows);
    const auto header = header_of("<f4", std::to_string(rows) + ", " + std::to_string(columns));
    write_file(path, header, reinterpret_cast<const char*>(values.data()),
               values.size() * sizeof(float));
}

void write_npy(const std::string& path, const std::vector<std::uint8_t>& values,
               const std::vector<std::int64_t>& shape) {
    std::string sides;
    for (const std::int64_t side : shape) sides += std::to_string(side) + ", ";
    write_file(path, header_of("|u1", sides), reinterpret_cast<const char*>(values.data()),
               values.size());
}

}  // namespace vit_edge
