// Errors that vit-edge raises on purpose: a message says what was wrong, with which value, and what
// to do. The command prints it as one line and ends with the error's exit status.
#pragma once

#include <stdexcept>
#include <string>

namespace vit_edge {

class Error : public std::runtime_error {
public:
    explicit Error(const std::string& message, int exit_status = 2)
        : std::runtime_error(message), exit_status_(exit_status) {}
    int exit_status() const noexcept { return exit_status_; }

private:
    int exit_status_;
};

// The caller's arguments or pictures are wrong.
class InputError : public Error {
public:
    explicit InputError(const std::string& message) : Error(message) {}
};

// A bundle is missing, incomplete or altered, or is not a bundle.
class BundleError : public Error {
public:
    explicit BundleError(const std::string& message) : Error(message) {}
};

// No backend can do what was asked here.
class BackendError : public Error {
public:
    explicit BackendError(const std::string& message) : Error(message) {}
};

// A backend refused an engine or failed to run it.
class EngineError : public Error {
public:
    explicit EngineError(const std::string& message) : Error(message) {}
};

// An engine's golden answers are further from PyTorch's than the bundle allows.
class SelfCheckError : public Error {
public:
    explicit SelfCheckError(const std::string& message) : Error(message, 1) {}
};

inline constexpr const char* kRemedy = "copy the bundle again, or export it again";

}  // namespace vit_edge
