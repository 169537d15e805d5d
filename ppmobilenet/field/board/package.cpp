#include "package.hpp"

#include <fstream>
#include <iterator>
#include <opencv2/core.hpp>

#include "sha256.hpp"

namespace ppmobilenet {
namespace {

constexpr int kFormatVersion = 2;

// One value of package.json; a missing one is an error that names the key.
cv::FileNode need(const cv::FileNode& parent, const std::string& key, const std::string& where) {
  cv::FileNode node = parent[key];
  if (node.empty() && !node.isSeq()) {
    throw Failure(kDamaged, where + " has no \"" + key + "\": export the model again");
  }
  return node;
}

std::vector<float> floats(const cv::FileNode& node) {
  std::vector<float> values;
  for (const auto& entry : node) values.push_back(static_cast<float>(static_cast<double>(entry)));
  return values;
}

const char kAgain[] = ": copy the package again, whole, or export again";

std::string sha256_of(const std::string& text) {
  Sha256 digest;
  digest.update(text.data(), text.size());
  return digest.hex();
}

// Writes package.json as export hashed it: keys sorted, no spaces, without its own "sha256". Numbers and texts are
// copied as they stand, for export writes them alike in both.
class Compact {
 public:
  Compact(const std::string& text, const std::string& file) : text_(text), file_(file) {}

  std::string write() {
    const std::string all = value(0);
    if (peek()) fail();
    return all;
  }

 private:
  [[noreturn]] void fail() const {
    throw Failure(kDamaged, file_ + " is not readable JSON (byte " + std::to_string(at_) + ")" + kAgain);
  }

  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
    return at_ < text_.size() ? text_[at_] : 0;
  }

  void expect(char c) {
    if (peek() != c) fail();
    ++at_;
  }

  std::string string() {
    const size_t start = at_;
    expect('"');
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    if (at_ >= text_.size()) fail();
    return text_.substr(start, ++at_ - start);
  }

  std::string value(int depth) {
    if (depth > 32) fail();
    const char first = peek();
    if (first == '"') return string();
    if (first == '[' || first == '{') {
      ++at_;
      std::vector<std::string> entries = first == '[' ? list(depth) : object(depth);
      std::string all(1, first);
      for (const std::string& entry : entries) all += (all.size() > 1 ? "," : "") + entry;
      return all + (first == '[' ? ']' : '}');
    }
    const size_t end = text_.find_first_of(",]} \n\r\t", at_);
    if (end == std::string::npos || end == at_) fail();
    const std::string word = text_.substr(at_, end - at_);
    at_ = end;
    return word;
  }

  std::vector<std::string> list(int depth) {
    std::vector<std::string> entries;
    if (peek() == ']') return ++at_, entries;
    for (;;) {
      entries.push_back(value(depth + 1));
      if (peek() == ']') return ++at_, entries;
      expect(',');
    }
  }

  std::vector<std::string> object(int depth) {
    std::map<std::string, std::string> sorted;  // UTF-8 sorts as Python's texts do
    if (peek() != '}') {
      for (;;) {
        if (peek() != '"') fail();
        const std::string key = string();
        expect(':');
        sorted[key] = value(depth + 1);
        if (peek() == '}') break;
        expect(',');
      }
    }
    ++at_;
    if (depth == 0) sorted.erase("\"sha256\"");
    std::vector<std::string> entries;
    for (const auto& entry : sorted) entries.push_back(entry.first + ":" + entry.second);
    return entries;
  }

  const std::string& text_;
  const std::string& file_;
  size_t at_ = 0;
};

Op read_op(const cv::FileNode& node, const std::string& where) {
  Op op;
  op.name = need(node, "op", where).string();
  if (op.name == "DecodeImage") {
    op.to_rgb = static_cast<int>(need(node, "to_rgb", where)) != 0;
  } else if (op.name == "ResizeImage" || op.name == "CropImage") {
    if (!node["resize_short"].empty()) {
      op.resize_short = static_cast<int>(node["resize_short"]);
    } else {
      cv::FileNode size = need(node, "size", where);
      op.width = static_cast<int>(size[0]);
      op.height = static_cast<int>(size[1]);
    }
    if (op.name == "ResizeImage") {
      op.interpolation = need(node, "interpolation", where).string();
      const std::string backend = need(node, "backend", where).string();
      if (backend != "cv2") {
        throw Failure(kUsage, where + " resizes with the backend \"" + backend +
                                  "\"; this program has cv2's only: train and export with backend: cv2");
      }
    }
  } else if (op.name == "NormalizeImage") {
    op.scale = static_cast<float>(static_cast<double>(need(node, "scale", where)));
    op.mean = floats(need(node, "mean", where));
    op.std = floats(need(node, "std", where));
    op.order = need(node, "order", where).string();
    if (op.mean.size() != 3 || op.std.size() != 3) {
      throw Failure(kDamaged, where + ": mean and std must hold three numbers");
    }
  } else if (op.name != "ToCHWImage") {
    throw Failure(kUsage, where + " names the operator \"" + op.name + "\", which this program does not know");
  }
  return op;
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
  if (root["format"].empty() || root["format"].string() != "ppmobilenet-package") {
    throw Failure(kDamaged, file + " is not a ppmobilenet package: \"format\" is another");
  }
  const int version = static_cast<int>(need(root, "format_version", file));
  if (version > kFormatVersion) {
    throw Failure(kUsage, file + " has format version " + std::to_string(version) + ", this program reads up to " +
                              std::to_string(kFormatVersion) + ": build a newer program, or export again");
  }
  if (need(root, "sha256", file).string() != digest) {
    throw Failure(kDamaged, file + " was changed after the export (sha256 differs)" + kAgain);
  }

  Package package;
  package.folder = folder;
  package.name = need(root, "name", file).string();
  package.class_num = static_cast<int>(need(root, "class_num", file));
  package.topk = static_cast<int>(need(root, "topk", file));
  for (const auto& label : need(root, "labels", file)) package.labels.push_back(label.string());
  const cv::FileNode input = need(root, "input", file);
  package.input_dtype = need(input, "dtype", file + " input").string();
  package.input_layout = need(input, "layout", file + " input").string();
  for (const auto& extent : need(input, "shape", file + " input")) {
    package.input_shape.push_back(static_cast<int>(extent));
  }
  if (package.input_shape.size() != 4) throw Failure(kDamaged, file + ": input.shape must hold four numbers");
  package.output_kind = need(need(root, "output", file), "kind", file + " output").string();
  for (const auto& op : need(need(root, "preprocess", file), "ops", file + " preprocess")) {
    package.ops.push_back(read_op(op, file + " preprocess.ops"));
  }
  for (const auto& node : need(root, "forms", file)) {
    Form form;
    form.name = need(node, "name", file + " forms").string();
    form.engine = need(node, "engine", file + " forms").string();
    form.precision = need(node, "precision", file + " forms").string();
    if (!node["target"].empty()) form.target = node["target"].string();
    if (!node["opt_version"].empty()) form.opt_version = node["opt_version"].string();
    for (const auto& path : need(node, "files", file + " forms")) form.files.push_back(path.string());
    package.forms.push_back(form);
  }
  for (const auto& node : need(root, "files", file)) {
    const std::string path = need(node, "path", file + " files").string();
    package.files[path] = {static_cast<int>(need(node, "bytes", file + " files")),
                           need(node, "sha256", file + " files").string()};
  }
  const cv::FileNode golden = root["golden"];
  for (const std::string key : {"image", "decode", "resize", "crop", "tensor", "logits", "output", "output_int8"}) {
    if (!golden[key].empty()) package.golden[key] = golden[key].string();
  }
  const cv::FileNode answer = golden["answer"];
  if (!answer.empty()) {
    package.recorded_answer = true;
    if (answer["class_ids"].empty()) {
      package.answer_classes = {static_cast<int>(need(answer, "class_id", file + " golden.answer"))};
      package.answer_scores = {static_cast<double>(need(answer, "score", file + " golden.answer"))};
      package.answer_unsure = static_cast<int>(need(answer, "unsure", file + " golden.answer")) != 0;
    } else {
      for (const auto& id : answer["class_ids"]) package.answer_classes.push_back(static_cast<int>(id));
      for (const auto& score : need(answer, "scores", file + " golden.answer")) {
        package.answer_scores.push_back(static_cast<double>(score));
      }
    }
  }
  const cv::FileNode decision = root["decision"];
  package.several = !decision["several"].empty() && static_cast<int>(decision["several"]) != 0;
  if (package.several) package.thresholds = floats(need(decision, "thresholds", file + " decision"));
  if (!decision["threshold"].empty()) package.thresholds = {static_cast<float>(decision["threshold"])};
  if (package.several ? package.thresholds.size() != static_cast<size_t>(package.class_num)
                      : !package.thresholds.empty() && package.class_num != 2) {
    throw Failure(kDamaged, file + ": decision must hold a threshold for each label" + kAgain);
  }
  if (!decision["temperature"].empty()) package.temperature = static_cast<double>(decision["temperature"]);
  if (!(package.temperature > 0)) throw Failure(kDamaged, file + ": decision.temperature must be above 0");
  package.asks_sure = !decision["unsure_below"].empty();
  if (package.asks_sure) package.unsure_below = static_cast<double>(decision["unsure_below"]);
  if (!root["versions"]["lite_runtime"].empty()) package.lite_runtime = root["versions"]["lite_runtime"].string();
  if (!root["bounds"]["logits"].empty()) package.bound_logits = root["bounds"]["logits"];
  if (!root["bounds"]["probabilities"].empty()) package.bound_probabilities = root["bounds"]["probabilities"];
  if (!root["bounds"]["int8"].empty()) package.bound_int8 = root["bounds"]["int8"];
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
