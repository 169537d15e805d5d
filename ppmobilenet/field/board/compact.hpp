// package.json as export hashed it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "package.hpp"

namespace ppmobilenet {

const char kAgain[] = ": copy the package again, whole, or export again";

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

}  // namespace ppmobilenet
