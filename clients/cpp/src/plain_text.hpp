// Messages of other libraries, and words out of files, as they may be printed.
#pragma once

#include <string>

namespace vit_edge {

// The text in printable ASCII: they may quote what is in a damaged or hostile file.
inline std::string plain(std::string text) {
    for (char& c : text) {
        if (c < 0x20 || c > 0x7e) c = '?';
    }
    return text.substr(0, 300);
}

}  // namespace vit_edge
