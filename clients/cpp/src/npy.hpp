// NumPy's arrays on disk, read without trusting them: names, types and shapes must be the expected
// ones before anything is allocated or inflated.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace vit_edge {

// An array [N, *rest] that an archive may hold.
struct ExpectedArray {
    std::string name;
    std::string dtype;  // as NumPy writes it: "|u1", "<f4", "<i8"
    int item_bytes;
    std::vector<std::int64_t> rest;
};

struct Array {
    std::int64_t count = 0;  // N
    std::string bytes;
};

// The arrays of an .npz archive by name. Throws std::runtime_error if one is damaged, not expected
// or of another type or shape.
std::map<std::string, Array> read_npz(const std::string& archive,
                                      const std::vector<ExpectedArray>& expected);

// Writes a float32 array [rows, columns] as an .npy file. Throws InputError.
void write_npy(const std::string& path, const std::vector<float>& values, std::int64_t rows);

// Writes a uint8 array as an .npy file. Throws InputError.
void write_npy(const std::string& path, const std::vector<std::uint8_t>& values,
               const std::vector<std::int64_t>& shape);

}  // namespace vit_edge
