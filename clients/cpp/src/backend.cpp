#include "vit_edge/backend.hpp"

#include "backends.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

struct Row {
    const char* name;
    std::unique_ptr<Backend> (*make)();
};

const std::vector<Row>& rows() {
    static const std::vector<Row> table{
#ifdef VIT_EDGE_TENSORRT
        {"tensorrt", make_tensorrt},
#endif
#ifdef VIT_EDGE_TENSORRT_RTX
        {"tensorrt-rtx", make_tensorrt},
#endif
#ifdef VIT_EDGE_OPENVINO
        {"openvino", make_openvino},
#endif
#ifdef VIT_EDGE_ONNXRUNTIME
        {"onnxruntime", make_onnxruntime},
#endif
    };
    return table;
}

}  // namespace

std::vector<std::string> backend_names() {
    std::vector<std::string> names;
    for (const Row& row : rows()) names.emplace_back(row.name);
    return names;
}

std::unique_ptr<Backend> make_backend(const std::string& name) {
    std::string known;
    for (const Row& row : rows()) {
        if (name == row.name) return row.make();
        known += (known.empty() ? "" : ", ") + std::string(row.name);
    }
    throw InputError("this build has no backend " + name + ": choose from " + known);
}

}  // namespace vit_edge
