// Files of a folder that somebody else may be changing: each is opened once, without following a
// link, and must be a regular file of the expected size.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace vit_edge {

// A folder as it was when it was opened: one that was put in its place since is refused.
class Folder {
public:
    // Throws BundleError if there is no folder at `path`, which may itself be a link.
    static Folder open(const std::string& path);

    const std::string& path() const { return path_; }
    std::string place(const std::string& name) const { return path_ + "/" + name; }

    // The bytes of a regular file. More than `limit`, or another size than `exact`, is refused
    // before any is read. Throws BundleError.
    std::string read(const std::string& name, std::int64_t limit,
                     std::optional<std::int64_t> exact = std::nullopt) const;

private:
    Folder(std::string path, dev_t device, ino_t inode)
        : path_(std::move(path)), device_(device), inode_(inode) {}
    int descend(const std::string& name) const;

    std::string path_;
    dev_t device_;
    ino_t inode_;
};

// SHA-256 in hex.
std::string sha256_hex(const std::string& bytes);

}  // namespace vit_edge
