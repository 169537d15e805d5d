// An answer as a line: for people, or as JSON with the keys of the Python program.
#pragma once

#include <string>

#include "decision.hpp"
#include "video.hpp"

namespace ppmobilenet {

// frame: of a video, or null; frames_per_second: answered of late, 0 where that is not known.
std::string text_line(const Package& package, const std::string& source, const Answer& answer,
                      const Frame* frame = nullptr);
std::string json_line(const Package& package, const std::string& source, const Answer& answer,
                      const Frame* frame = nullptr, double frames_per_second = 0);
std::string json_failure(const std::string& source, const std::string& error);

}  // namespace ppmobilenet
