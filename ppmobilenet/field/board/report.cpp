#include "report.hpp"

#include <cstdio>

namespace ppmobilenet {
namespace {

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string quoted(const std::string& text) {
  std::string all = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      all += '\\';
      all += c;
    } else if (static_cast<unsigned char>(c) < 32) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      all += code;
    } else {
      all += c;
    }
  }
  return all + '"';
}

template <typename Each>
std::string list(const Answer& answer, Each each) {
  std::string all = "[";
  for (const Ranked& ranked : answer.best) all += (all.size() > 1 ? ", " : "") + each(ranked);
  return all + "]";
}

}  // namespace

std::string text_line(const Package& package, const std::string& source, const Answer& answer, const Frame* frame) {
  std::string line = source + (frame ? number(" %.2f s", frame->seconds) : "") + ":";
  if (package.asks_sure && answer.unsure) line += "  unsure:";
  if (answer.best.empty()) line += "  none of the labels";
  for (const Ranked& ranked : answer.best) {
    const std::string name = ranked.label.empty() ? "class" : ranked.label;
    line += number("  %.4f ", ranked.score) + name + " (" + std::to_string(ranked.class_id) + ")";
  }
  return line;
}

std::string json_line(const Package& package, const std::string& source, const Answer& answer, const Frame* frame,
                      double frames_per_second) {
  std::string line = "{\"class_ids\": " + list(answer, [](const Ranked& r) { return std::to_string(r.class_id); });
  line += ", \"scores\": " + list(answer, [](const Ranked& r) { return number("%.5f", r.score); });
  line += ", \"file_name\": " + quoted(source);
  line += ", \"label_names\": " + list(answer, [](const Ranked& r) { return quoted(r.label); });
  if (package.asks_sure) line += std::string(", \"unsure\": ") + (answer.unsure ? "true" : "false");
  if (frame) {
    line += ", \"frame\": " + std::to_string(frame->number) + ", \"seconds\": " + number("%.3f", frame->seconds);
    if (!frame->time.empty()) line += ", \"time\": " + quoted(frame->time);
    if (frames_per_second > 0) line += ", \"frames_per_second\": " + number("%.1f", frames_per_second);
  }
  return line + "}";
}

std::string json_failure(const std::string& source, const std::string& error) {
  return "{\"file_name\": " + quoted(source) + ", \"error\": " + quoted(error) + "}";
}

}  // namespace ppmobilenet
