// Paddle Lite ends in abort() where it cannot go on, and a processor that lacks an instruction in SIGILL. While a Guard
// lives, such an end is this program's own: its words on stderr and its exit code.
#pragma once

#include <string>

#include "package.hpp"

namespace ppmobilenet {

class Guard {
 public:
  // One at a time.
  Guard(Exit code, const std::string& message);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
};

}  // namespace ppmobilenet
