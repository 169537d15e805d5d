// classify PACKAGE photo...: what the photos show, from a package that `ppmobilenet export --to lite-armv8` wrote.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "classifier.hpp"
#include "preprocess.hpp"
#include "report.hpp"
#include "video.hpp"

using namespace ppmobilenet;  // NOLINT

namespace {

const char kUsageText[] =
    "usage: classify PACKAGE [photo ...] [options]\n"
    "\n"
    "  classify PACKAGE photo.jpg          the most likely classes of each photo\n"
    "  classify PACKAGE video.mp4          of each frame; also rtsp://..., and --camera 0\n"
    "  classify PACKAGE --self-test        golden image -> tensor -> output, against what was stored at export\n"
    "  classify PACKAGE photo.jpg --bench  latency of the network and of the whole way from the file\n"
    "\n"
    "options:\n"
    "  --threads N      threads of Paddle Lite (default 1)\n"
    "  --power MODE     cores to bind to: high, low, full, none (default), rand-high, rand-low\n"
    "  --form NAME      a model of the package, e.g. lite-armv8-int8 (default: this processor's, fp32 first)\n"
    "  --topk K         how many classes to show (default: the package's)\n"
    "  --json           a line of JSON an answer\n"
    "  --camera N       answer the newest frame of a camera, for ever\n"
    "  --smooth N       video: the mean answer of the last N frames\n"
    "  --fps F          video: answer at most F frames a second\n"
    "  --frames N       video: end after N answers\n"
    "  --runs N         runs of --bench (default 50)\n"
    "  --tensor FILE    write the first photo's input tensor to FILE (raw values) and stop; needs no model\n"
    "\n"
    "exit code: 0 done, 2 wrong usage, 3 a photo could not be read, 4 damaged package, 5 self-test out of bounds\n";

struct Options {
  std::string package, power = "none", form, tensor;
  std::vector<std::string> photos;
  int threads = 1, topk = 0, runs = 50, smooth = 1, fps = 0, frames = 0;
  bool bench = false, self_test = false, json = false;
};

int whole_number(const std::string& name, const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || value < 1 || value > 1000000) {
    throw Failure(kUsage, name + " takes a whole number from 1, not \"" + text + "\"");
  }
  return static_cast<int>(value);
}

Options parse(int argc, char** argv) {
  Options options;
  const std::map<std::string, int*> numbers = {{"--threads", &options.threads}, {"--topk", &options.topk},
                                               {"--runs", &options.runs},       {"--smooth", &options.smooth},
                                               {"--fps", &options.fps},         {"--frames", &options.frames}};
  const std::map<std::string, std::string*> texts = {
      {"--power", &options.power}, {"--form", &options.form}, {"--tensor", &options.tensor}};
  const std::map<std::string, bool*> flags = {
      {"--bench", &options.bench}, {"--self-test", &options.self_test}, {"--json", &options.json}};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw Failure(kUsage, word + " needs a value");
      return argv[++i];
    };
    if (numbers.count(word)) {
      *numbers.at(word) = whole_number(word, value());
    } else if (texts.count(word)) {
      *texts.at(word) = value();
    } else if (flags.count(word)) {
      *flags.at(word) = true;
    } else if (word == "--camera") {
      options.photos.push_back("camera:" + value());
    } else if (word.size() > 1 && word[0] == '-') {
      throw Failure(kUsage, "unknown option " + word + "\n\n" + kUsageText);
    } else if (options.package.empty()) {
      options.package = word;
    } else {
      options.photos.push_back(word);
    }
  }
  if (options.package.empty()) throw Failure(kUsage, std::string("no package is given\n\n") + kUsageText);
  if (options.photos.empty() && !options.self_test) throw Failure(kUsage, "no photo is given");
  for (const std::string& photo : options.photos) {
    if (is_video(photo) && options.photos.size() > 1) throw Failure(kUsage, "one video or camera at a time");
    if (is_video(photo) && (options.bench || !options.tensor.empty())) {
      throw Failure(kUsage, "--bench and --tensor take a photo");
    }
  }
  return options;
}

void print(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);  // whatever happens to the next photo, this answer is out
}

int classify_photos(Classifier* classifier, const Options& options) {
  int code = kDone;
  for (const std::string& photo : options.photos) {
    try {
      const Answer answer = (*classifier)(photo, options.topk);
      const Package& package = classifier->package();
      print(options.json ? json_line(package, photo, answer) : text_line(package, photo, answer));
    } catch (const Failure& failure) {
      if (failure.code != kData) throw;
      if (options.json) print(json_failure(photo, failure.what()));
      std::fprintf(stderr, "error: %s\n", failure.what());  // a bad photo loses none of the good ones
      code = kData;
    }
  }
  return code;
}

// Every frame of a file, the newest of a live source; the answer is that of the mean of the last --smooth frames.
int classify_video(Classifier* classifier, const Options& options, const std::string& source) {
  const Package& package = classifier->package();
  Frames frames(source);
  std::deque<std::vector<float>> recent;
  std::deque<double> times;
  const auto start = std::chrono::steady_clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  int count = 0;
  double due = 0;
  for (Frame frame; (!options.frames || count < options.frames) && frames.next(&frame);) {
    if (options.fps > 0) {
      if (frame.seconds < due - 1e-6) continue;
      due = std::max(due + 1.0 / options.fps, frame.seconds);
    }
    recent.push_back(classifier->scores(frame.pixels));
    if (recent.size() > static_cast<size_t>(options.smooth)) recent.pop_front();
    std::vector<float> mean(recent[0].size());
    for (const std::vector<float>& scores : recent) {
      for (size_t i = 0; i < mean.size(); ++i) mean[i] += scores[i] / static_cast<float>(recent.size());
    }
    times.push_back(passed());
    if (times.size() > 30) times.pop_front();
    const double speed = times.size() > 1 ? (times.size() - 1) / std::max(times.back() - times.front(), 1e-9) : 0;
    const Answer answer = decide(package, mean, options.topk);
    print(options.json ? json_line(package, source, answer, &frame, speed)
                       : text_line(package, source, answer, &frame));
    ++count;
  }
  std::fprintf(stderr, "%d frames answered in %.1f s: %.1f a second\n", count, passed(), count / passed());
  return kDone;
}

double milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void print_times(const char* what, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  std::printf("%-24s median %8.2f ms   p90 %8.2f ms   (%zu runs)\n", what, times[times.size() / 2],
              times[times.size() * 9 / 10], times.size());
}

int bench(Classifier* classifier, const Options& options) {
  const Package& package = classifier->package();
  Engine* engine = &classifier->engine();
  const Image image = preprocess(package, options.photos[0]);
  for (int i = 0; i < 5; ++i) engine->run(image);
  std::vector<double> network, whole;
  for (int i = 0; i < options.runs; ++i) {
    network.push_back(milliseconds([&] { engine->run(image); }));
    whole.push_back(milliseconds([&] { engine->run(preprocess(package, options.photos[0])); }));
  }
  std::printf("%s, %d thread(s), power mode %s\n", package.name.c_str(), options.threads, options.power.c_str());
  print_times("network", network);
  print_times("photo file to label", whole);
  return kDone;
}

template <typename T>
double largest_difference(const T* a, const T* b, size_t count) {
  double largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= largest)) largest = difference;  // a NaN wins
  }
  return largest;
}

bool report(const char* stage, double difference, double bound, const char* note = "") {
  const bool good = difference <= bound;
  std::printf("%-10s max difference %-12.4g bound %-10.3g %s%s\n", stage, difference, bound, good ? "pass" : "FAIL",
              note);
  return good;
}

std::string numbers(const std::vector<int>& values) {
  std::string all;
  for (const int value : values) all += (all.empty() ? "" : ", ") + std::to_string(value);
  return all.empty() ? "none" : all;
}

// Each stage starts from what was recorded of the one before it, so that the first stage that departs is named.
int self_test(Classifier* classifier) {
  const Package& package = classifier->package();
  const Form& form = classifier->form();
  Engine* engine = &classifier->engine();
  if (!package.golden.count("image") || !package.golden.count("tensor") || !package.golden.count("output")) {
    throw Failure(kDamaged, "the package has no golden/ record: export the model again");
  }
  bool good = true;
  bool rgb = true;
  Image image;
  const std::string photo = package.checked(package.golden.at("image"));
  for (const Op& op : package.ops) {
    std::string stage;
    if (op.name == "DecodeImage") stage = "decode", rgb = op.to_rgb;
    if (op.name == "ResizeImage") stage = "resize";
    if (op.name == "CropImage") stage = "crop";
    apply(op, photo, &image);
    if (stage.empty() || !package.golden.count(stage)) continue;
    const std::string picture = package.checked(package.golden.at(stage));
    cv::Mat recorded = cv::imread(picture, cv::IMREAD_COLOR);
    if (recorded.empty()) throw Failure(kDamaged, picture + " cannot be decoded: export the model again");
    if (rgb) cv::cvtColor(recorded, recorded, cv::COLOR_BGR2RGB);
    double difference = 255;
    if (recorded.size() == image.pixels.size() && recorded.type() == image.pixels.type()) {
      difference = cv::norm(recorded, image.pixels, cv::NORM_INF);
    }
    // JPEG decoders and resize kernels may round a level or two apart; the crop only copies
    good &= report(stage.c_str(), difference, stage == "decode" ? 3 : stage == "resize" ? 1 : 0, " (grey levels)");
    image.pixels = recorded;
  }
  const auto& shape = package.input_shape;
  const size_t count = static_cast<size_t>(shape[1] * shape[2] * shape[3]);
  Image tensor = finish(package, photo, image);
  if (package.input_dtype == "float32") {
    std::vector<float> recorded = read_values<float>(package, package.golden.at("tensor"), count);
    good &= report("tensor", largest_difference(recorded.data(), tensor.planes.data(), count), 1e-5);
    tensor.planes = recorded;
  } else {
    std::vector<uint8_t> recorded = read_values<uint8_t>(package, package.golden.at("tensor"), count);
    good &= report("tensor", largest_difference(recorded.data(), tensor.byte_planes.data(), count), 0);
    tensor.byte_planes = recorded;
  }
  const size_t classes = static_cast<size_t>(package.class_num);
  const bool int8_recorded = form.precision == "int8" && package.golden.count("output_int8");
  const std::string record = package.golden.at(int8_recorded ? "output_int8" : "output");
  std::vector<float> expected = read_values<float>(package, record, classes), got = engine->run(tensor);
  std::string kind = package.output_kind;
  double bound = kind == "logits" ? package.bound_logits : package.bound_probabilities;
  const char* note = "";
  if (form.precision == "fp16") bound = kind == "logits" ? 0.2 : 0.05, note = " (fp16)";
  if (form.precision == "int8") bound = INFINITY, note = " (int8: only the most likely class is compared)";
  if (int8_recorded) {
    expected = probabilities(package, expected), got = probabilities(package, got);
    kind = "int8", bound = package.bound_int8, note = " (probabilities, as computed at the export)";
  }
  good &= report(kind.c_str(), largest_difference(expected.data(), got.data(), classes), bound, note);
  const auto answered = [&](const std::vector<float>& output) {
    const std::vector<float> scores = int8_recorded ? output : probabilities(package, output);
    return package.several ? chosen(package, scores) : best_first(output, 1);
  };
  const std::vector<int> want = answered(expected), have = answered(got);
  bool same_answer = want == have;
  // what int8 may show can turn two classes about that are equally likely
  if (int8_recorded && !package.several) same_answer |= expected[want[0]] - expected[have[0]] <= bound;
  std::printf("%-10s recorded %s, here %s  %s\n", package.several ? "labels" : "top-1", numbers(want).c_str(),
              numbers(have).c_str(), same_answer ? "pass" : "FAIL");
  good &= same_answer;
  if (package.recorded_answer && !int8_recorded) {
    const Answer answer = decide(package, probabilities(package, expected), 1);
    bool same = answer.best.size() == package.answer_classes.size() && answer.unsure == package.answer_unsure;
    double departs = 0;
    for (size_t i = 0; same && i < answer.best.size(); ++i) {
      same = answer.best[i].class_id == package.answer_classes[i];
      departs = std::max(departs, std::abs(answer.best[i].score - package.answer_scores[i]));
    }
    good &= report("answer", same ? departs : 1, 1e-5, answer.unsure ? " (unsure)" : " (sure)");
  }
  std::printf(good ? "self-test passed: this board answers as the trained model does\n" : "self-test FAILED\n");
  return good ? kDone : kNumerics;
}

int run(const Options& options) {
  if (!options.tensor.empty()) {
    const Package package = open_package(options.package);
    const Image image = preprocess(package, options.photos.at(0));
    std::ofstream out(options.tensor, std::ios::binary);
    const bool bytes = image.planes.empty();
    out.write(bytes ? reinterpret_cast<const char*>(image.byte_planes.data())
                    : reinterpret_cast<const char*>(image.planes.data()),
              static_cast<std::streamsize>(bytes ? image.byte_planes.size() : image.planes.size() * sizeof(float)));
    if (!out.flush()) throw Failure(kUsage, options.tensor + " cannot be written");
    return kDone;
  }
  Classifier classifier(options.package, options.form, options.threads, options.power);
  const std::string have = classifier.engine().runtime_version(), need = classifier.package().lite_runtime;
  if (!need.empty() && have.find(need) == std::string::npos && need.find(have) == std::string::npos) {
    std::fprintf(stderr, "warning: the model was made for Paddle Lite %s, this program runs %s\n", need.c_str(),
                 have.c_str());
  }
  if (options.self_test) return self_test(&classifier);
  if (options.bench) return bench(&classifier, options);
  if (is_video(options.photos[0])) return classify_video(&classifier, options, options.photos[0]);
  return classify_photos(&classifier, options);
}

}  // namespace

int main(int argc, char** argv) {
  // one photo at a time needs no pool of threads, and under qemu OpenCV's was seen to wait for ever
  cv::setNumThreads(1);
  if (argc > 1 && (!std::strcmp(argv[1], "--help") || !std::strcmp(argv[1], "-h"))) {
    std::cout << kUsageText;
    return kDone;
  }
  try {
    return run(parse(argc, argv));
  } catch (const Failure& failure) {
    std::fprintf(stderr, "error: %s\n", failure.what());
    return failure.code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return kDamaged;
  }
}
