// An ONNX graph names the files that hold its weights, and libraries open them by name and follow
// `../`: a hostile graph would read what it likes. So the names are looked up in the verified bytes
// first, by just enough of protobuf's wire format, read strictly.
// Source: runtime/bundle.py; protobuf.dev/programming-guides/encoding; `onnx.proto` (IR version
// 13).
#include "onnx_files.hpp"

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

constexpr int kMaxDepth = 64;
constexpr int kMaxFields = 1 << 18;
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;
constexpr std::uint64_t kKey = 1, kValue = 2;

enum class Message {
    kModel,
    kTraining,
    kFunction,
    kGraph,
    kNode,
    kAttribute,
    kSparseTensor,
    kTensor,
    kEntry
};

// For each message type the fields through which a tensor's `external_data` is reached.
const std::map<Message, std::map<std::uint64_t, Message>>& tensor_fields() {
    using M = Message;
    static const std::map<M, std::map<std::uint64_t, M>> fields{
        {M::kModel, {{7, M::kGraph}, {20, M::kTraining}, {25, M::kFunction}}},
        {M::kTraining, {{1, M::kGraph}, {2, M::kGraph}}},
        {M::kFunction, {{7, M::kNode}, {11, M::kAttribute}}},
        {M::kGraph, {{1, M::kNode}, {5, M::kTensor}, {15, M::kSparseTensor}}},
        {M::kNode, {{5, M::kAttribute}}},
        {M::kAttribute,
         {{5, M::kTensor},
          {6, M::kGraph},
          {10, M::kTensor},
          {11, M::kGraph},
          {22, M::kSparseTensor},
          {23, M::kSparseTensor}}},
        {M::kSparseTensor, {{1, M::kTensor}, {2, M::kTensor}}},
        {M::kTensor, {{13, M::kEntry}}},
    };
    return fields;
}

struct Field {
    std::uint64_t number;
    std::string_view content;
};

std::uint64_t read_varint(std::string_view message, std::size_t& position) {
    std::uint64_t value = 0;
    for (int i = 0; i < 10 && position < message.size(); ++i) {
        const auto byte = static_cast<unsigned char>(message[position++]);
        value |= static_cast<std::uint64_t>(byte & 0x7f) << (7 * i);
        if (byte < 0x80) return value;
    }
    throw std::runtime_error("a number without an end");
}

// The length-delimited fields of a message; takes one from `budget` for every field.
std::vector<Field> read_fields(std::string_view message, int& budget) {
    std::vector<Field> fields;
    for (std::size_t position = 0; position < message.size();) {
        if (budget-- == 0) throw std::runtime_error("it has too many fields");
        const std::uint64_t tag = read_varint(message, position);
        const std::uint64_t number = tag >> 3;
        const int wire = static_cast<int>(tag & 7);
        if (number == 0 || number >= 1u << 29) throw std::runtime_error("a bad field number");
        std::uint64_t size = 0;
        if (wire == kVarint) {
            read_varint(message, position);
        } else if (wire == kBytes) {
            size = read_varint(message, position);
        } else if (wire == kFixed32 || wire == kFixed64) {
            size = wire == kFixed32 ? 4 : 8;
        } else {
            throw std::runtime_error("wire type " + std::to_string(wire));
        }
        if (size > message.size() - position) {
            throw std::runtime_error("a field is longer than the file");
        }
        if (wire == kBytes) fields.push_back({number, message.substr(position, size)});
        position += size;
    }
    return fields;
}

// Adds the values of an entry that is the location, or that a sloppy reader might take for it.
void add_location(const std::vector<Field>& entry, std::set<std::string>& found) {
    bool is_location = false, has_value = false;
    for (const Field& field : entry) {
        is_location = is_location || (field.number == kKey && field.content == "location");
    }
    if (!is_location) return;
    for (const Field& field : entry) {
        if (field.number != kValue) continue;
        has_value = true;
        found.emplace(field.content);
    }
    if (!has_value) found.emplace();
}

}  // namespace

std::set<std::string> external_locations(const std::string& graph) {
    struct Pending {
        std::string_view message;
        Message kind;
        int depth;
    };
    std::set<std::string> found;
    std::vector<Pending> pending{{graph, Message::kModel, 0}};
    int budget = kMaxFields;
    try {
        while (!pending.empty()) {
            const Pending next = pending.back();
            pending.pop_back();
            if (next.depth > kMaxDepth) throw std::runtime_error("it is nested too deeply");
            const auto fields = read_fields(next.message, budget);
            if (next.kind == Message::kEntry) {
                add_location(fields, found);
                continue;
            }
            const auto& inner = tensor_fields().at(next.kind);
            for (const Field& field : fields) {
                const auto kind = inner.find(field.number);
                if (kind != inner.end()) {
                    pending.push_back({field.content, kind->second, next.depth + 1});
                }
            }
        }
    } catch (const std::runtime_error& error) {
        throw BundleError(std::string("a graph of the bundle is not valid ONNX: ") + error.what());
    }
    return found;
}

}  // namespace vit_edge
