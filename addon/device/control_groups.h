// Control groups of Linux: where the files lie by which a container or a service is limited.
#pragma once

#include <string>
#include <vector>

namespace nemotron {

struct ControlGroup {
  std::string folder;
  bool is_version2 = false;
};

// Those of `controller` ("memory", "cpu") that this process is in, and all above them, whether
// their files are there or not. `root`: of the system's files.
std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& root);

}  // namespace nemotron
