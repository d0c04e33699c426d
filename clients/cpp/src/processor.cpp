// Source: runtime/backends/cpu.py, runtime/container.py; sched_getaffinity(2); the kernel's "CPU
// topology"; cgroups(7), cpu.max and cpu.cfs_quota_us.
#include "processor.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace vit_edge {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::vector<int> allowed_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> cores;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) cores.push_back(cpu);
    }
    return cores;
}

// The CPUs that a control group may use: version 2 has one file, version 1 two.
std::optional<double> group_quota(const fs::path& group) {
    std::string words = first_line(group / "cpu.max");
    if (words.empty()) {
        words =
            first_line(group / "cpu.cfs_quota_us") + " " + first_line(group / "cpu.cfs_period_us");
    }
    std::istringstream stream(words);
    double quota = 0, period = 0;
    // "max" is no number, and -1 no limit.
    if (!(stream >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
    return quota / period;
}

// The tightest limit between the root and the group of the process.
std::optional<double> cpu_quota() {
    std::optional<double> least;
    std::ifstream lines("/proc/self/cgroup");
    for (std::string line; std::getline(lines, line);) {
        const auto first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string listed = "," + controllers + ",";
        if (!controllers.empty() && listed.find(",cpu,") == std::string::npos) continue;
        fs::path root("/sys/fs/cgroup");
        if (!controllers.empty()) root /= controllers;
        const fs::path own = root / fs::path(line.substr(second + 1)).relative_path();
        for (fs::path group = own; group.string().size() >= root.string().size();
             group = group.parent_path()) {
            const auto quota = group_quota(group);
            if (quota && (!least || *quota < *least)) least = quota;
            if (group == group.parent_path()) break;
        }
    }
    return least;
}

// One thread for each physical core that this process may use.
int usable_cores() {
    const fs::path topology("/sys/devices/system/cpu");
    std::set<std::string> cores;
    for (const int cpu : allowed_cores()) {
        const std::string name = "cpu" + std::to_string(cpu);
        const auto siblings = first_line(topology / name / "topology/thread_siblings_list");
        cores.insert(siblings.empty() ? name : siblings);
    }
    return std::max<int>(1, static_cast<int>(cores.size()));
}

}  // namespace

bool is_limited() {
    const auto whole = sysconf(_SC_NPROCESSORS_ONLN);
    const auto quota = cpu_quota();
    return static_cast<long>(allowed_cores().size()) < whole ||
           (quota && *quota < static_cast<double>(whole));
}

int choose_threads(std::optional<int> threads) {
    if (threads) return std::min(*threads, static_cast<int>(allowed_cores().size()));
    const int cores = usable_cores();
    const auto quota = cpu_quota();
    if (!quota) return cores;
    return std::max(1, std::min(cores, static_cast<int>(std::ceil(*quota))));
}

}  // namespace vit_edge
