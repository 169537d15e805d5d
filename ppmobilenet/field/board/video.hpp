// Frames of a video file, a camera or a stream. Of a file every frame; of a live source the newest, which is opened
// again where it breaks off (ppmobilenet/field/video.py is the same).
#pragma once

#include <memory>
#include <opencv2/core.hpp>
#include <string>

namespace ppmobilenet {

struct Frame {
  int64_t number = 0;   // of the source's frames, from 0
  double seconds = 0;   // its place in the file; of a live source since that was opened first
  std::string time;     // when it was taken, ISO 8601; empty for a file
  cv::Mat pixels;       // BGR
};

// Whether a source is a video file, "camera:N", or a stream's address.
bool is_video(const std::string& source);

class Frames {
 public:
  // Throws Failure: there is no such camera, the file or stream cannot be opened, or this program was built without
  // OpenCV's videoio.
  explicit Frames(const std::string& source);
  ~Frames();
  Frames(const Frames&) = delete;
  Frames& operator=(const Frames&) = delete;

  // The next frame; false at the end, which a live source has not.
  bool next(Frame* frame);

 private:
  class Reader;
  std::unique_ptr<Reader> reader_;
};

}  // namespace ppmobilenet
