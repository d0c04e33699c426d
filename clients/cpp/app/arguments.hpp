// The command line of `vit-edge-run`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "vit_edge/engine.hpp"

struct Arguments {
    std::string bundle;
    std::vector<std::string> pictures;
    vit_edge::EngineOptions engine;
    int top = 5;
    bool json = false;
    int calls = 0;                       // timed calls of the first frame
    std::optional<std::string> outputs;  // file for the outputs, .npy
    bool help = false;
};

inline constexpr const char* kUsage =
    "usage: vit-edge-run [options] BUNDLE [PICTURE ...]\n"
    "\n"
    "Opens a vit-edge bundle, proves it by its golden samples (all of them without a picture), "
    "and\n"
    "prints the likeliest classes of JPEG and PNG pictures.\n"
    "\n"
    "  --precision P   of the bundle (default: first in the export's order)\n"
    "  --backend B     of this build (default: the first that has the precision)\n"
    "  --threads N     CPU threads (default: what suits the machine)\n"
    "  --top K         classes to print (default: 5)\n"
    "  --golden N      golden samples to check, or all (default: 8 with pictures, else all)\n"
    "  --outputs FILE  write the raw outputs, float32 [N, width], as .npy: the pictures', or "
    "without\n"
    "                  one the golden samples'\n"
    "  --calls N       time N calls of one image\n"
    "  --json          print a JSON object for each picture, and one about the engine\n"
    "\n"
    "Exit status: 0 done; 1 the golden check was missed, or some pictures could not be read;\n"
    "2 bad input.\n";

// Throws vit_edge::InputError.
Arguments parse_arguments(int count, char** values);
