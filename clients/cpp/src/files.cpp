// Source: runtime/files.py; openat(2); OpenSSL EVP_Digest(3).
#include "files.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
// O_NONBLOCK: a pipe that somebody puts there in the last moment must not hang the application.
constexpr int kFile = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

// A file descriptor that is closed at the end.
class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        if (this != &other) {
            close();
            number_ = other.release();
        }
        return *this;
    }
    ~Descriptor() { close(); }

    int get() const { return number_; }
    bool is_open() const { return number_ >= 0; }
    int release() {
        const int number = number_;
        number_ = -1;
        return number;
    }

private:
    void close() {
        if (number_ >= 0) ::close(number_);
    }
    int number_;
};

std::string sizes(std::int64_t size, std::int64_t expected) {
    return std::to_string(size) + " bytes, not " + std::to_string(expected) + ": it " +
           (size < expected ? "is truncated" : "was altered");
}

}  // namespace

Folder Folder::open(const std::string& path) {
    struct stat status{};
    if (path.find('\0') != std::string::npos || ::stat(path.c_str(), &status) != 0 ||
        !S_ISDIR(status.st_mode)) {
        throw BundleError("there is no bundle at " + path + ": make one with `vit-edge export`");
    }
    return Folder(path, status.st_dev, status.st_ino);
}

int Folder::descend(const std::string& name) const {
    const auto fail = [&]() -> BundleError {
        if (errno == ENOENT) return BundleError(place(name) + " is missing; " + kRemedy);
        return BundleError(place(name) + " cannot be read (" + std::strerror(errno) + "); " +
                           kRemedy);
    };
    Descriptor folder(::open(path_.c_str(), kDirectory));
    struct stat status{};
    if (!folder.is_open() || ::fstat(folder.get(), &status) != 0) throw fail();
    if (status.st_dev != device_ || status.st_ino != inode_) {
        throw BundleError(path_ + " was replaced while it was read: load it again");
    }
    std::size_t start = 0;
    for (auto slash = name.find('/'); slash != std::string::npos; slash = name.find('/', start)) {
        const std::string part = name.substr(start, slash - start);
        Descriptor inner(::openat(folder.get(), part.c_str(), kDirectory | O_NOFOLLOW));
        if (!inner.is_open()) throw fail();
        folder = std::move(inner);
        start = slash + 1;
    }
    const std::string last = name.substr(start);
    // Merely to open a device can do something: what is no file is not opened.
    if (::fstatat(folder.get(), last.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) throw fail();
    if (!S_ISREG(status.st_mode)) {
        throw BundleError(place(name) + " is not a regular file; " + kRemedy);
    }
    const int file = ::openat(folder.get(), last.c_str(), kFile);
    if (file < 0) throw fail();
    return file;
}

std::string Folder::read(const std::string& name, std::int64_t limit,
                         std::optional<std::int64_t> exact) const {
    const Descriptor file(descend(name));
    struct stat status{};
    if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
        throw BundleError(place(name) + " is not a regular file; " + kRemedy);
    }
    const auto size = static_cast<std::int64_t>(status.st_size);
    if (exact && size != *exact) {
        throw BundleError(place(name) + " has " + sizes(size, *exact) + "; " + kRemedy);
    }
    if (size > limit) {
        throw BundleError(place(name) + " has " + std::to_string(size) + " bytes, not at most " +
                          std::to_string(limit) + "; " + kRemedy);
    }
    // One byte more than expected, so that a file that grows meanwhile shows.
    std::string data(static_cast<std::size_t>(size) + 1, '\0');
    std::size_t done = 0;
    while (done < data.size()) {
        const ssize_t count = ::read(file.get(), &data[done], data.size() - done);
        if (count == 0) break;
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) {
            throw BundleError(place(name) + " cannot be read (" + std::strerror(errno) + "); " +
                              kRemedy);
        }
        done += static_cast<std::size_t>(count);
    }
    if (done != static_cast<std::size_t>(size)) {
        throw BundleError(place(name) + " has " + sizes(static_cast<std::int64_t>(done), size) +
                          "; " + kRemedy);
    }
    data.resize(done);
    return data;
}

std::string sha256_hex(const std::string& bytes) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr) != 1) {
        throw BackendError("OpenSSL has no SHA-256 here");
    }
    static const char* const digits = "0123456789abcdef";
    std::string hex;
    for (unsigned int i = 0; i < size; ++i) {
        hex += digits[digest[i] >> 4];
        hex += digits[digest[i] & 15];
    }
    return hex;
}

}  // namespace vit_edge
