#include "video.hpp"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <vector>

#include "package.hpp"

#ifdef PPMOBILENET_VIDEO
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <opencv2/videoio.hpp>
#include <thread>
#endif

namespace ppmobilenet {
namespace {

bool starts(const std::string& text, const std::string& start) { return text.compare(0, start.size(), start) == 0; }

bool is_live(const std::string& source) {
  for (const char* start : {"camera:", "rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://"}) {
    if (starts(source, start)) return true;
  }
  return false;
}

}  // namespace

bool is_video(const std::string& source) {
  if (is_live(source)) return true;
  std::string suffix = source.substr(std::min(source.size(), source.rfind('.')));
  for (char& c : suffix) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const char* known : {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv",
                            ".3gp"}) {
    if (suffix == known) return true;
  }
  return false;
}

#ifdef PPMOBILENET_VIDEO

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPauses[] = {1, 2, 4, 8, 15, 30};  // seconds between the attempts to open a live source again

std::string now() {
  const auto time = std::chrono::system_clock::now();
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  const std::time_t seconds = static_cast<std::time_t>(milliseconds / 1000);
  std::tm parts = {};
  gmtime_r(&seconds, &parts);
  char day[32], all[48];
  std::strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(all, sizeof all, "%s.%03d+00:00", day, static_cast<int>(milliseconds % 1000));
  return all;
}

// The capture, or a Failure that says why there is none.
cv::VideoCapture open(const std::string& source) {
  cv::VideoCapture capture;
  if (starts(source, "camera:")) {
    const std::string number = source.substr(7);
    if (number.empty() || number.size() > 3 || number.find_first_not_of("0123456789") != std::string::npos) {
      throw Failure(kUsage, source + " is no camera: camera:0, camera:1, ...");
    }
    const std::string device = "/dev/video" + number;
    if (!std::ifstream(device)) {
      throw Failure(kUsage, source + " cannot be opened: " + device +
                                " is not there, or may not be read (sudo usermod -aG video $USER, then log in again)");
    }
    capture.open(std::stoi(number));
    capture.set(cv::CAP_PROP_BUFFERSIZE, 1);
  } else {
    if (!is_live(source) && !std::ifstream(source)) throw Failure(kData, source + " cannot be opened");
    capture.open(source);
  }
  if (!capture.isOpened()) throw Failure(kData, source + " gives no picture, or OpenCV here does not read this kind");
  return capture;
}

}  // namespace

class Frames::Reader {
 public:
  explicit Reader(const std::string& source) : source_(source), live_(is_live(source)), capture_(open(source)) {
    if (live_) thread_ = std::thread([this] { read_on(); });
  }

  ~Reader() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  bool next(Frame* frame) {
    if (!live_) return next_of_file(frame);
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return fresh_; });
    *frame = newest_;
    fresh_ = false;
    return true;
  }

 private:
  bool next_of_file(Frame* frame) {
    if (!capture_.read(frame->pixels)) {
      if (!number_) throw Failure(kData, source_ + " holds no frame that OpenCV reads");
      return false;
    }
    const double told = capture_.get(cv::CAP_PROP_POS_MSEC) / 1000, rate = capture_.get(cv::CAP_PROP_FPS);
    // some containers tell no time: then the frames are taken to be evenly spaced
    if (told > seconds_ || !number_) {
      seconds_ = told;
    } else if (rate > 0) {
      seconds_ = static_cast<double>(number_) / rate;
    }
    frame->number = number_++;
    frame->seconds = seconds_;
    return true;
  }

  void read_on() {
    const auto start = Clock::now();
    size_t failed = 0;
    while (!stopped_) {
      Frame frame;
      if (capture_.isOpened() && capture_.read(frame.pixels)) {
        failed = 0;
        frame.number = number_++;
        frame.seconds = std::chrono::duration<double>(Clock::now() - start).count();
        frame.time = now();
        {
          const std::lock_guard<std::mutex> lock(mutex_);
          newest_ = frame;
          fresh_ = true;
        }
        changed_.notify_all();
        continue;
      }
      capture_.release();
      const int pause = kPauses[std::min(failed++, sizeof kPauses / sizeof kPauses[0] - 1)];
      std::fprintf(stderr, "%s: no picture comes; it is opened again in %d s\n", source_.c_str(), pause);
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_for(lock, std::chrono::seconds(pause), [this] { return stopped_.load(); });
      lock.unlock();
      try {
        if (!stopped_) capture_ = open(source_);
      } catch (const Failure&) {
      }
    }
  }

  const std::string source_;
  const bool live_;
  cv::VideoCapture capture_;
  int64_t number_ = 0;
  double seconds_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> stopped_{false};
  bool fresh_ = false;
  Frame newest_;
  std::thread thread_;
};

Frames::Frames(const std::string& source) : reader_(std::make_unique<Reader>(source)) {}
bool Frames::next(Frame* frame) { return reader_->next(frame); }

#else

class Frames::Reader {};

Frames::Frames(const std::string&) {
  throw Failure(kUsage, "this program was built without OpenCV's videoio: install it (Debian: libopencv-dev) and build "
                        "again");
}
bool Frames::next(Frame*) { return false; }

#endif

Frames::~Frames() = default;

}  // namespace ppmobilenet
