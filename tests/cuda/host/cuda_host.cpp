#include "cuda_host.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define DROPIN_ASAN 1
#include <sanitizer/common_interface_defs.h>
#else
#define DROPIN_ASAN 0
#endif

// Saves what the calling convention keeps, changes the stack.
extern "C" void dropin_fiber_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.type dropin_fiber_switch, @function
dropin_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dropin_fiber_switch, .-dropin_fiber_switch
)");
#else
#error "the host executor's fibers are written for x86-64"
#endif

namespace dropin::cuda_host {

uint3 thread_index, block_index;
dim3 block_size, grid_size;
void* dynamic_shared;

namespace {

constexpr std::size_t kStack = 256 * 1024;
constexpr int kMaxThreads = 1024, kSlot = 128;

struct Fiber {
  char* stack = nullptr;
  void* sp = nullptr;
  void* fake = nullptr;
};
enum class State { Fresh, Ready, AtBlockBarrier, AtWarp, Done };
struct Copy {
  void* to;
  const void* from;
  bool there;
  int group;
};
struct Thread {
  Fiber* fiber = nullptr;
  State state = State::Fresh;
  uint3 index{};
  std::vector<Copy> copies;  // that have not been waited for
  int groups = 0;            // committed
};
struct Warp {
  int size = 0, alive = 0, arrived = 0, generation = 0;
  alignas(16) unsigned char slots[2][32 * kSlot];
};

struct Machine {
  std::recursive_mutex mutex;
  std::vector<Fiber*> free_fibers;
  Thread threads[kMaxThreads];
  Warp warps[kMaxThreads / 32];
  int count = 0, alive = 0, at_barrier = 0, current = 0;
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  const char* name = "";
  void *scheduler_sp = nullptr, *scheduler_fake = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_size = 0;
  bool running = false;
};
Machine& machine() {
  static Machine* m = new Machine;
  return *m;
}

void enter_fiber(Thread& t) {
  Machine& m = machine();
#if DROPIN_ASAN
  __sanitizer_start_switch_fiber(&m.scheduler_fake, t.fiber->stack, kStack);
#endif
  dropin_fiber_switch(&m.scheduler_sp, t.fiber->sp);
#if DROPIN_ASAN
  __sanitizer_finish_switch_fiber(m.scheduler_fake, nullptr, nullptr);
#endif
}
void leave_fiber() {
  Machine& m = machine();
  Fiber* f = m.threads[m.current].fiber;
#if DROPIN_ASAN
  __sanitizer_start_switch_fiber(&f->fake, m.scheduler_stack, m.scheduler_size);
#endif
  dropin_fiber_switch(&f->sp, m.scheduler_sp);
#if DROPIN_ASAN
  __sanitizer_finish_switch_fiber(f->fake, &m.scheduler_stack, &m.scheduler_size);
#endif
}

void release_block() {
  Machine& m = machine();
  m.at_barrier = 0;
  for (int i = 0; i < m.count; ++i)
    if (m.threads[i].state == State::AtBlockBarrier) m.threads[i].state = State::Ready;
}
void release_warp(int w) {
  Machine& m = machine();
  m.warps[w].arrived = 0;
  ++m.warps[w].generation;
  for (int i = 32 * w; i < std::min(m.count, 32 * w + 32); ++i)
    if (m.threads[i].state == State::AtWarp) m.threads[i].state = State::Ready;
}

// A fiber runs one thread after the other; it is given back when a thread ends.
void fiber_main() {
  Machine& m = machine();
#if DROPIN_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_stack, &m.scheduler_size);
#endif
  for (;;) {
    m.body(m.context);
    Thread& t = m.threads[m.current];
    t.state = State::Done;
    if (!t.copies.empty())
      stop("a thread ended with asynchronous copies that it has not waited for");
    t.groups = 0;
    Warp& w = m.warps[m.current / 32];
    --w.alive;
    if (w.arrived > 0) stop("a thread ended while others of its warp wait in a shuffle or ballot");
    if (--m.alive > 0 && m.at_barrier == m.alive) release_block();
    m.free_fibers.push_back(t.fiber);
    leave_fiber();
  }
}

Fiber* take_fiber() {
  Machine& m = machine();
  if (!m.free_fibers.empty()) {
    Fiber* f = m.free_fibers.back();
    m.free_fibers.pop_back();
    return f;
  }
  auto* f = new Fiber;
  f->stack = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (f->stack == MAP_FAILED) stop("no memory for a fiber");
  // as dropin_fiber_switch leaves a stack: six registers, then where to return to; the entry
  // expects the stack as after a call
  void** top = reinterpret_cast<void**>(f->stack + kStack - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f->sp = top;
  return f;
}

const std::string& order() {
  static const std::string text = [] {
    const char* t = std::getenv("DROPIN_HOST_ORDER");
    return std::string(t ? t : "");
  }();
  return text;
}

/// Carries out the thread's asynchronous copies up to this group.
void copy(Thread& t, int last_group) {
  std::size_t k = 0;
  for (; k < t.copies.size() && t.copies[k].group <= last_group; ++k) {
    const Copy& c = t.copies[k];
    if (c.there)
      std::memcpy(c.to, c.from, 16);
    else
      std::memset(c.to, 0, 16);
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<std::ptrdiff_t>(k));
}

// --- device memory

struct Arena {
  char* base = nullptr;
  std::size_t size = std::size_t{16} << 30;
  int key = -1;
  std::map<std::size_t, std::size_t> free;  // offset -> bytes
  std::map<std::size_t, std::size_t> used;
  std::size_t in_use = 0;
  Arena() {
    base = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base == MAP_FAILED) stop("no address space for device memory");
    free[0] = size;
    key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    if (key >= 0 && pkey_mprotect(base, size, PROT_READ | PROT_WRITE, key)) key = -1;
    struct sigaction a {};
    a.sa_flags = SA_SIGINFO;
    a.sa_sigaction = [](int, siginfo_t* info, void*) {
      char* p = static_cast<char*>(info->si_addr);
      Machine& m = machine();
      if (p >= arena().base && p < arena().base + arena().size && !m.running)
        fprintf(stderr, "cuda_host: host code touched device memory at %p\n",
                static_cast<void*>(p));
      else
        fprintf(stderr, "cuda_host: segmentation fault at %p%s%s\n", static_cast<void*>(p),
                m.running ? " in kernel " : "", m.running ? m.name : "");
      void* frames[40];
      backtrace_symbols_fd(frames, backtrace(frames, 40), 2);
      _exit(139);
    };
    sigaction(SIGSEGV, &a, nullptr);
  }
  static Arena& arena() {
    static Arena* a = new Arena;
    return *a;
  }
};

struct Open {
  Open() {
    if (!DROPIN_ASAN && Arena::arena().key >= 0) pkey_set(Arena::arena().key, 0);
  }
  ~Open() {
    if (!DROPIN_ASAN && Arena::arena().key >= 0) pkey_set(Arena::arena().key, PKEY_DISABLE_ACCESS);
  }
};

}  // namespace

void stop(const char* why) {
  Machine& m = machine();
  fprintf(stderr, "cuda_host: %s; kernel %s, block (%u, %u, %u), thread (%u, %u, %u)\n", why,
          m.name, block_index.x, block_index.y, block_index.z, thread_index.x, thread_index.y,
          thread_index.z);
  std::abort();
}

int lane() { return machine().current % 32; }

void copy_later(void* to, const void* from, bool there) {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 ||
      (there && reinterpret_cast<std::uintptr_t>(from) % 16))
    stop("an asynchronous copy of 16 bytes from or to what is not aligned to them");
  Thread& t = machine().threads[machine().current];
  t.copies.push_back({to, from, there, t.groups});
  if (!order().empty()) copy(t, t.groups);
}
void commit_copies() { ++machine().threads[machine().current].groups; }
void wait_for_copies(int groups_left) {
  Thread& t = machine().threads[machine().current];
  copy(t, t.groups - 1 - groups_left);
}

void sync_block() {
  Machine& m = machine();
  if (++m.at_barrier == m.alive) return release_block();
  m.threads[m.current].state = State::AtBlockBarrier;
  leave_fiber();
}

const unsigned char* exchange(const void* mine, std::size_t bytes) {
  Machine& m = machine();
  Warp& w = m.warps[m.current / 32];
  if (w.alive != 32) stop("a shuffle or ballot in a warp of which not every lane is there");
  if (bytes > kSlot) stop("an exchange of more than 128 bytes");
  const int g = w.generation & 1;
  std::memcpy(w.slots[g] + kSlot * (m.current % 32), mine, bytes);
  if (++w.arrived == w.alive) {
    release_warp(m.current / 32);
  } else {
    m.threads[m.current].state = State::AtWarp;
    leave_fiber();
  }
  return w.slots[g];
}

void run(dim3 grid, dim3 block, std::size_t shared, void (*body)(void*), void* context,
         const char* name) {
  Machine& m = machine();
  std::lock_guard lock(m.mutex);
  Open open;
  const unsigned count = block.x * block.y * block.z;
  m.name = name;
  if (count == 0 || count > kMaxThreads || !grid.x || !grid.y || !grid.z || grid.y > 65535 ||
      grid.z > 65535 || block.z > 64)
    stop("a launch that CUDA would refuse");
  if (shared > 227 * 1024) stop("more shared memory than a block can have");
  void* memory = shared ? std::malloc(shared) : nullptr;
  dynamic_shared = memory;
  grid_size = grid, block_size = block;
  m.body = body, m.context = context, m.running = true;
  m.count = static_cast<int>(count);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        if (memory) std::memset(memory, 0xff, shared);
        m.alive = m.count;
        m.at_barrier = 0;
        for (int w = 0; w * 32 < m.count; ++w)
          m.warps[w].size = m.warps[w].alive = std::min(32, m.count - 32 * w),
          m.warps[w].arrived = 0;
        for (int i = 0; i < m.count; ++i) {
          const auto u = static_cast<unsigned>(i);
          m.threads[i].state = State::Fresh;
          m.threads[i].index = {u % block.x, u / block.x % block.y, u / (block.x * block.y)};
        }
        unsigned shuffle = 12345;
        while (m.alive > 0) {
          bool moved = false;
          for (int k = 0; k < m.count; ++k) {
            int i = k;
            if (order() == "reverse")
              i = m.count - 1 - k;
            else if (order() == "shuffle")
              i = static_cast<int>((static_cast<unsigned>(k) * 7919u + shuffle) %
                                   count);  // 7919 is prime, blocks are not its multiples
            Thread& t = m.threads[i];
            if (t.state != State::Fresh && t.state != State::Ready) continue;
            if (t.state == State::Fresh) t.fiber = take_fiber();
            t.state = State::Ready;
            m.current = i;
            thread_index = t.index;
            enter_fiber(t);
            moved = true;
          }
          shuffle = shuffle * 1664525u + 1013904223u;
          if (!moved)
            stop(
                "threads wait for each other for ever: a barrier or shuffle that not all of them "
                "reach");
        }
      }
  m.running = false;
  dynamic_shared = nullptr;
  std::free(memory);
}

}  // namespace dropin::cuda_host

using namespace dropin::cuda_host;

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
#if DROPIN_ASAN
  if (bytes > std::size_t{16} << 30) return cudaErrorMemoryAllocation;
  *p = std::malloc(bytes);
  if (!*p) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xff, bytes);
  return cudaSuccess;
#else
  Machine& m = machine();
  std::lock_guard lock(m.mutex);
  Arena& a = Arena::arena();
  const std::size_t need = (std::max<std::size_t>(bytes, 1) + 255) / 256 * 256;
  for (auto it = a.free.begin(); it != a.free.end(); ++it) {
    if (it->second < need) continue;
    const auto [at, have] = *it;
    a.free.erase(it);
    if (have > need) a.free[at + need] = have - need;
    a.used[at] = need;
    a.in_use += need;
    *p = a.base + at;
    Open open;
    std::memset(*p, 0xff, need);
    return cudaSuccess;
  }
  return cudaErrorMemoryAllocation;
#endif
}

cudaError_t cudaFree(void* p) {
#if DROPIN_ASAN
  std::free(p);
#else
  Machine& m = machine();
  std::lock_guard lock(m.mutex);
  Arena& a = Arena::arena();
  auto it = a.used.find(static_cast<std::size_t>(static_cast<char*>(p) - a.base));
  if (it == a.used.end()) stop("cudaFree of something that was not allocated");
  auto [at, bytes] = *it;
  a.used.erase(it);
  a.in_use -= bytes;
  auto next = a.free.lower_bound(at);
  if (next != a.free.end() && next->first == at + bytes)
    bytes += next->second, next = a.free.erase(next);
  if (next != a.free.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == at) {
      before->second += bytes;
      return cudaSuccess;
    }
  }
  a.free[at] = bytes;
#endif
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  Open open;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t) {
  Open open;
  std::memset(p, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = std::size_t{16} << 30;
  *free = *total - (DROPIN_ASAN ? 0 : Arena::arena().in_use);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::strcpy(p->name, "host executor (tests only)");
  p->totalGlobalMem = std::size_t{16} << 30;
  p->major = 8, p->minor = 0, p->multiProcessorCount = 4;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  switch (what) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 163 * 1024;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 8;
      break;
    default:
      *value = 0;
      break;
  }
  return cudaSuccess;
}
