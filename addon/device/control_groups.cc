#include "device/control_groups.h"

#include <fstream>

namespace nemotron {

// Lines of /proc/self/cgroup are "4:cpu,cpuacct:/path" (version 1) and "0::/path" (version 2).
std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& root) {
  std::vector<ControlGroup> groups;
  std::ifstream lines(root + "/proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {
    const size_t names = line.find(':');
    const size_t at = names == std::string::npos ? names : line.find(':', names + 1);
    if (at == std::string::npos) continue;
    const std::string controllers = "," + line.substr(names + 1, at - names - 1) + ",";
    const bool is_version2 = controllers == ",,";
    if (!is_version2 && controllers.find("," + controller + ",") == std::string::npos) continue;
    const std::string mount = root + "/sys/fs/cgroup" + (is_version2 ? "" : "/" + controller);
    // In a container the path may be that of the host, of which there is the root alone.
    groups.push_back({mount, is_version2});
    for (std::string path = line.substr(at + 1); path.size() > 1 && path[0] == '/';
         path.resize(path.rfind('/'))) {
      groups.push_back({mount + path, is_version2});
    }
  }
  return groups;
}

}  // namespace nemotron
