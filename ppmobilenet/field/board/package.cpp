#include "package.hpp"

#include <fstream>
#include <iterator>
#include <opencv2/core.hpp>

#include "compact.hpp"
#include "sha256.hpp"

namespace ppmobilenet {
namespace {

constexpr int kFormatVersion = 2;

constexpr int kLongestSide = 1 << 14;  // of a picture: no memory is asked for beyond that

// What a value of package.json may be.
struct Kind {
  const char* words;
  bool (*fits)(const cv::FileNode&);
};
const Kind kText = {"a text", [](const cv::FileNode& node) { return node.isString(); }};
const Kind kWhole = {"a whole number", [](const cv::FileNode& node) { return node.isInt(); }};
const Kind kNumber = {"a number", [](const cv::FileNode& node) { return node.isInt() || node.isReal(); }};
const Kind kList = {"a list", [](const cv::FileNode& node) { return node.isSeq(); }};
const Kind kObject = {"an object", [](const cv::FileNode& node) { return node.isMap(); }};
const Kind kCount = {"a whole number from 1", [](const cv::FileNode& node) {
                       return node.isInt() && static_cast<int>(node) >= 1;
                     }};
const Kind kSide = {"a whole number from 1 to 16384", [](const cv::FileNode& node) {
                      return kCount.fits(node) && static_cast<int>(node) <= kLongestSide;
                    }};

cv::FileNode fitting(const cv::FileNode& node, const Kind& kind, const std::string& place) {
  if (!kind.fits(node)) throw Failure(kDamaged, place + " is not " + kind.words + kAgain);
  return node;
}

// One value of package.json, or none.
cv::FileNode perhaps(const cv::FileNode& parent, const std::string& key, const Kind& kind, const std::string& where) {
  if (parent.isNone()) return cv::FileNode();
  const cv::FileNode node = fitting(parent, kObject, where)[key];
  return node.isNone() ? node : fitting(node, kind, where + "." + key);
}

// One value of package.json; a missing one is an error that names the key.
cv::FileNode need(const cv::FileNode& parent, const std::string& key, const Kind& kind, const std::string& where) {
  const cv::FileNode node = perhaps(parent, key, kind, where);
  if (node.isNone()) throw Failure(kDamaged, where + " has no \"" + key + "\"" + kAgain);
  return node;
}

std::string text_of(const cv::FileNode& parent, const std::string& key, const std::string& where) {
  return need(parent, key, kText, where).string();
}

std::vector<std::string> texts(const cv::FileNode& list, const std::string& place) {
  std::vector<std::string> values;
  for (const auto& entry : list) values.push_back(fitting(entry, kText, "an entry of " + place).string());
  return values;
}

template <typename T>
std::vector<T> numbers(const cv::FileNode& list, const Kind& kind, const std::string& place) {
  std::vector<T> values;
  for (const auto& entry : list) {
    values.push_back(static_cast<T>(static_cast<double>(fitting(entry, kind, "an entry of " + place))));
  }
  return values;
}

std::string sha256_of(const std::string& text) {
  Sha256 digest;
  digest.update(text.data(), text.size());
  return digest.hex();
}

Op read_op(const cv::FileNode& node, const std::string& where) {
  Op op;
  op.name = text_of(node, "op", where);
  if (op.name == "DecodeImage") {
    op.to_rgb = static_cast<int>(need(node, "to_rgb", kWhole, where)) != 0;
  } else if (op.name == "ResizeImage" || op.name == "CropImage") {
    const cv::FileNode shorter = perhaps(node, "resize_short", kSide, where);
    if (op.name == "ResizeImage" && !shorter.isNone()) {
      op.resize_short = static_cast<int>(shorter);
    } else {
      const std::vector<int> size = numbers<int>(need(node, "size", kList, where), kSide, where + ".size");
      if (size.size() != 2) throw Failure(kDamaged, where + ".size must hold two numbers" + kAgain);
      op.width = size[0], op.height = size[1];
    }
    if (op.name == "ResizeImage") {
      op.interpolation = text_of(node, "interpolation", where);
      const std::string backend = text_of(node, "backend", where);
      if (backend != "cv2") {
        throw Failure(kUsage, where + " resizes with the backend \"" + backend +
                                  "\"; this program has cv2's only: train and export with backend: cv2");
      }
    }
  } else if (op.name == "NormalizeImage") {
    op.scale = static_cast<float>(static_cast<double>(need(node, "scale", kNumber, where)));
    op.mean = numbers<float>(need(node, "mean", kList, where), kNumber, where + ".mean");
    op.std = numbers<float>(need(node, "std", kList, where), kNumber, where + ".std");
    op.order = text_of(node, "order", where);
    if (op.mean.size() != 3 || op.std.size() != 3) {
      throw Failure(kDamaged, where + ": mean and std must hold three numbers" + kAgain);
    }
  } else if (op.name != "ToCHWImage") {
    throw Failure(kUsage, where + " names the operator \"" + op.name + "\", which this program does not know");
  }
  return op;
}

// The input, as what photos become: the engine's memory is laid out by it.
void read_input(const cv::FileNode& input, const std::string& where, Package* package) {
  package->input_dtype = text_of(input, "dtype", where);
  package->input_layout = text_of(input, "layout", where);
  const bool nchw = package->input_layout == "NCHW";
  if ((!nchw && package->input_layout != "NHWC") ||
      (package->input_dtype != "float32" && package->input_dtype != "uint8")) {
    throw Failure(kDamaged, where + " is neither float32 nor uint8, or neither NCHW nor NHWC" + kAgain);
  }
  package->input_shape = numbers<int64_t>(need(input, "shape", kList, where), kWhole, where + ".shape");
  const std::vector<int64_t>& shape = package->input_shape;
  bool right = shape.size() == 4;
  for (size_t i = 1; right && i < 4; ++i) right = shape[i] >= 1 && shape[i] <= kLongestSide;
  if (!right || shape[nchw ? 1 : 3] != 3) {
    throw Failure(kDamaged, where + ".shape must hold the batch, three colours, height and width" + kAgain);
  }
}

Form read_form(const cv::FileNode& node, const std::string& where) {
  Form form;
  form.name = text_of(node, "name", where);
  form.engine = text_of(node, "engine", where);
  form.precision = text_of(node, "precision", where);
  const cv::FileNode target = perhaps(node, "target", kText, where), opt = perhaps(node, "opt_version", kText, where);
  if (!target.isNone()) form.target = target.string();
  if (!opt.isNone()) form.opt_version = opt.string();
  form.files = texts(need(node, "files", kList, where), where + ".files");
  return form;
}

void read_golden(const cv::FileNode& golden, const std::string& where, Package* package) {
  for (const std::string key : {"image", "decode", "resize", "crop", "tensor", "logits", "output", "output_int8"}) {
    const cv::FileNode path = perhaps(golden, key, kText, where);
    if (!path.isNone()) package->golden[key] = path.string();
  }
  const cv::FileNode answer = perhaps(golden, "answer", kObject, where);
  if (answer.isNone()) return;
  const std::string place = where + ".answer";
  package->recorded_answer = true;
  const cv::FileNode several = perhaps(answer, "class_ids", kList, place);
  if (several.isNone()) {
    package->answer_classes = {static_cast<int>(need(answer, "class_id", kWhole, place))};
    package->answer_scores = {static_cast<double>(need(answer, "score", kNumber, place))};
    package->answer_unsure = static_cast<int>(need(answer, "unsure", kWhole, place)) != 0;
    return;
  }
  package->answer_classes = numbers<int>(several, kWhole, place + ".class_ids");
  package->answer_scores = numbers<double>(need(answer, "scores", kList, place), kNumber, place + ".scores");
  if (package->answer_scores.size() != package->answer_classes.size()) {
    throw Failure(kDamaged, place + " must hold a score for each class" + kAgain);
  }
}

void read_decision(const cv::FileNode& decision, const std::string& where, Package* package) {
  const cv::FileNode several = perhaps(decision, "several", kWhole, where);
  const cv::FileNode threshold = perhaps(decision, "threshold", kNumber, where);
  package->several = !several.isNone() && static_cast<int>(several) != 0;
  if (package->several) {
    package->thresholds =
        numbers<float>(need(decision, "thresholds", kList, where), kNumber, where + ".thresholds");
  }
  if (!threshold.isNone()) package->thresholds = {static_cast<float>(static_cast<double>(threshold))};
  if (package->several ? package->thresholds.size() != static_cast<size_t>(package->class_num)
                       : !package->thresholds.empty() && package->class_num != 2) {
    throw Failure(kDamaged, where + " must hold a threshold for each label" + kAgain);
  }
  const cv::FileNode temperature = perhaps(decision, "temperature", kNumber, where);
  if (!temperature.isNone()) package->temperature = static_cast<double>(temperature);
  if (!(package->temperature > 0)) throw Failure(kDamaged, where + ".temperature must be above 0" + kAgain);
  const cv::FileNode unsure = perhaps(decision, "unsure_below", kNumber, where);
  package->asks_sure = !unsure.isNone();
  if (package->asks_sure) package->unsure_below = static_cast<double>(unsure);
}

}  // namespace

Package open_package(const std::string& folder) {
  const std::string file = folder + "/package.json";
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw Failure(kUsage, file + " is not there: give the folder that `ppmobilenet export` wrote");
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  const std::string digest = sha256_of(Compact(text, file).write());  // refuses, too, what OpenCV would stumble over
  cv::FileStorage storage;
  try {
    storage.open(text, cv::FileStorage::READ | cv::FileStorage::MEMORY | cv::FileStorage::FORMAT_JSON, "UTF-8");
  } catch (const cv::Exception& error) {
    throw Failure(kDamaged, file + " is not readable JSON (" + error.err + "): copy the package again, whole");
  }
  if (!storage.isOpened()) throw Failure(kDamaged, file + " cannot be opened");
  const cv::FileNode root = storage.root();
  if (!root.isMap() || !root["format"].isString() || root["format"].string() != "ppmobilenet-package") {
    throw Failure(kDamaged, file + " is not a ppmobilenet package: \"format\" is another");
  }
  const int version = static_cast<int>(need(root, "format_version", kCount, file));
  if (version > kFormatVersion) {
    throw Failure(kUsage, file + " has format version " + std::to_string(version) + ", this program reads up to " +
                              std::to_string(kFormatVersion) + ": build a newer program, or export again");
  }
  if (text_of(root, "sha256", file) != digest) {
    throw Failure(kDamaged, file + " was changed after the export (sha256 differs)" + kAgain);
  }

  // What follows holds for what an export wrote; whoever writes one by another program is told what is missing.
  Package package;
  package.folder = folder;
  package.name = text_of(root, "name", file);
  package.class_num = static_cast<int>(need(root, "class_num", kCount, file));
  package.topk = static_cast<int>(need(root, "topk", kCount, file));
  package.labels = texts(need(root, "labels", kList, file), file + " labels");
  read_input(need(root, "input", kObject, file), file + " input", &package);
  package.output_kind = text_of(need(root, "output", kObject, file), "kind", file + " output");
  for (const auto& op : need(need(root, "preprocess", kObject, file), "ops", kList, file + " preprocess")) {
    package.ops.push_back(read_op(op, file + " preprocess.ops"));
  }
  if (package.ops.empty() || package.ops[0].name != "DecodeImage") {
    throw Failure(kDamaged, file + " preprocess.ops must begin with DecodeImage" + kAgain);
  }
  for (const auto& node : need(root, "forms", kList, file)) package.forms.push_back(read_form(node, file + " forms"));
  for (const auto& node : need(root, "files", kList, file)) {
    const std::string where = file + " files";
    package.files[text_of(node, "path", where)] = {static_cast<int>(need(node, "bytes", kWhole, where)),
                                                   text_of(node, "sha256", where)};
  }
  read_golden(perhaps(root, "golden", kObject, file), file + " golden", &package);
  read_decision(perhaps(root, "decision", kObject, file), file + " decision", &package);
  const cv::FileNode versions = perhaps(root, "versions", kObject, file);
  const cv::FileNode runtime = perhaps(versions, "lite_runtime", kText, file + " versions");
  if (!runtime.isNone()) package.lite_runtime = runtime.string();
  const cv::FileNode bounds = perhaps(root, "bounds", kObject, file);
  const std::map<std::string, double*> by_name = {{"logits", &package.bound_logits},
                                                  {"probabilities", &package.bound_probabilities},
                                                  {"int8", &package.bound_int8}};
  for (const auto& [name, bound] : by_name) {
    const cv::FileNode given = perhaps(bounds, name, kNumber, file + " bounds");
    if (!given.isNone()) *bound = static_cast<double>(given);
  }
  return package;
}

const Form& choose_form(const Package& package, const std::string& wanted) {
#if defined(__aarch64__)
  const std::string target = "armv8";
#elif defined(__arm__)
  const std::string target = "armv7";
#else
  const std::string target = "x86";
#endif
  std::string there;
  const Form* first = nullptr;
  for (const Form& form : package.forms) {
    if (form.engine != "lite") continue;
    there += (there.empty() ? "" : ", ") + form.name;
    if (!wanted.empty() ? form.name == wanted : form.target == target) {
      if (!first || (form.precision == "fp32" && first->precision != "fp32")) first = &form;
    }
  }
  if (first && first->target != target) {
    throw Failure(kUsage, first->name + " is for " + first->target + ", this processor is " + target);
  }
  if (first) return *first;
  throw Failure(kUsage, "the package has no Paddle Lite model " + (wanted.empty() ? "for " + target : wanted) +
                            (there.empty() ? "" : " (there are: " + there + ")") + ": export with --to lite-" + target);
}

std::string Package::checked(const std::string& file) const {
  const std::string full = folder + "/" + file;
  const auto entry = files.find(file);
  if (entry == files.end()) throw Failure(kDamaged, file + " is not among the files that package.json lists" + kAgain);
  if (file.empty() || file[0] == '/' || ("/" + file + "/").find("/../") != std::string::npos) {
    throw Failure(kDamaged, "the file " + file + " lies outside the package" + kAgain);
  }
  std::ifstream stream(full, std::ios::binary);
  if (!stream) throw Failure(kDamaged, full + " is missing" + kAgain);
  Sha256 digest;
  int64_t bytes = 0;
  std::vector<char> block(1 << 16);
  while (stream.read(block.data(), static_cast<std::streamsize>(block.size())) || stream.gcount()) {
    digest.update(block.data(), static_cast<size_t>(stream.gcount()));
    bytes += stream.gcount();
  }
  if (bytes != entry->second.bytes) {
    throw Failure(kDamaged, full + " has " + std::to_string(bytes) + " bytes, the package says " +
                                std::to_string(entry->second.bytes) + kAgain);
  }
  if (digest.hex() != entry->second.sha256) {
    throw Failure(kDamaged, full + " was changed after the export (sha256 differs)" + kAgain);
  }
  return full;
}

template <typename T>
std::vector<T> read_values(const Package& package, const std::string& name, size_t count) {
  const std::string path = package.checked(name);
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const size_t bytes = static_cast<size_t>(file.tellg());
  if (bytes != count * sizeof(T)) {
    throw Failure(kDamaged, path + " has " + std::to_string(bytes) + " bytes instead of " +
                                std::to_string(count * sizeof(T)) + ": copy the package again, whole");
  }
  std::vector<T> values(count);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(bytes));
  return values;
}
template std::vector<float> read_values<float>(const Package&, const std::string&, size_t);
template std::vector<uint8_t> read_values<uint8_t>(const Package&, const std::string&, size_t);

}  // namespace ppmobilenet
