#include "guard.hpp"

#include <csignal>
#include <unistd.h>

namespace ppmobilenet {
namespace {

struct Ending {
  int signal;
  const char* name;
};
constexpr Ending kEndings[] = {
    {SIGABRT, "SIGABRT"}, {SIGSEGV, "SIGSEGV"}, {SIGBUS, "SIGBUS"}, {SIGFPE, "SIGFPE"}, {SIGILL, "SIGILL"}};
constexpr size_t kCount = sizeof kEndings / sizeof kEndings[0];

struct sigaction saved[kCount];
std::string words[kCount];  // made before anything can go wrong: a signal's handler may not allocate
int codes[kCount];

extern "C" void end_in_our_words(int signal) {
  for (size_t i = 0; i < kCount; ++i) {
    if (kEndings[i].signal != signal) continue;
    const ssize_t written = write(STDERR_FILENO, words[i].data(), words[i].size());
    static_cast<void>(written);
    _exit(codes[i]);
  }
}

}  // namespace

Guard::Guard(Exit code, const std::string& message) {
  struct sigaction action = {};
  action.sa_handler = end_in_our_words;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kCount; ++i) {
    words[i] = "error: " + message + " (" + kEndings[i].name + ")\n";
    codes[i] = code;
    if (kEndings[i].signal == SIGILL) {
      words[i] = "error: this processor lacks an instruction that the model needs (fp16 needs ARMv8.2): choose another "
                 "--form (SIGILL)\n";
      codes[i] = kUsage;
    }
    sigaction(kEndings[i].signal, &action, &saved[i]);
  }
}

Guard::~Guard() {
  for (size_t i = 0; i < kCount; ++i) sigaction(kEndings[i].signal, &saved[i], nullptr);
}

}  // namespace ppmobilenet
