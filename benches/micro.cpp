// What a copy does in memory only: range algebra, the decoding of changed areas, digests. For whoever changes them;
// none of it is near to what a copy takes in all.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <random>
#include <vector>

#include "base/ranges.hpp"
#include "copy/digests.hpp"
#include "vsphere/changed_areas.hpp"
#include "vsphere/soap.hpp"

namespace {

using namespace vmferry;

constexpr std::uint64_t kib = 1024, mib = 1024 * kib;

// Areas of 64 KiB to 1 MiB with gaps of the same kind, from `offset` on.
std::vector<ByteRange> areas(std::int64_t count, std::uint64_t offset = 0) {
  std::mt19937_64 random(1);
  std::uniform_int_distribution<std::uint64_t> chunks(1, 16);
  std::vector<ByteRange> all;
  for (std::int64_t i = 0; i < count; ++i) {
    offset += chunks(random) * 64 * kib;
    all.push_back({offset, chunks(random) * 64 * kib});
    offset = all.back().end();
  }
  return all;
}

void rate(benchmark::State& state) { state.SetItemsProcessed(state.iterations() * state.range(0)); }

// As the pages of a query arrive.
void ranges_grow(benchmark::State& state) {
  const std::vector<ByteRange> all = areas(state.range(0));
  constexpr std::size_t page = 2000;
  for (auto _ : state) {
    RangeSet set;
    for (std::size_t at = 0; at < all.size(); at += page)
      set.add(RangeSet(std::span(all).subspan(at, std::min(page, all.size() - at))));
    benchmark::DoNotOptimize(set);
  }
  rate(state);
}
BENCHMARK(ranges_grow)->Arg(2000)->Arg(200'000);

void ranges_subtract(benchmark::State& state) {
  const RangeSet one(areas(state.range(0))), other(areas(state.range(0), 32 * kib));
  for (auto _ : state) {
    RangeSet rest = one;
    rest.subtract(other);
    benchmark::DoNotOptimize(rest);
  }
  rate(state);
}
BENCHMARK(ranges_subtract)->Arg(2000)->Arg(200'000);

void ranges_intersect(benchmark::State& state) {
  const RangeSet one(areas(state.range(0))), other(areas(state.range(0), 32 * kib));
  for (auto _ : state) benchmark::DoNotOptimize(one.intersect(other));
  rate(state);
}
BENCHMARK(ranges_intersect)->Arg(200'000);

void ranges_merge_and_align(benchmark::State& state) {
  const RangeSet set(areas(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(set.merged(64 * kib).aligned(mib, UINT64_MAX));
  rate(state);
}
BENCHMARK(ranges_merge_and_align)->Arg(200'000);

// One page of QueryChangedDiskAreas, from the bytes of the reply to areas.
void changed_page(benchmark::State& state) {
  std::string reply = R"(<?xml version="1.0"?><Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>)"
                      R"(<QueryChangedDiskAreasResponse xmlns="urn:vim25"><returnval><startOffset>0</startOffset>)"
                      "<length>1099511627776</length>";
  for (const ByteRange& area : areas(state.range(0)))
    reply += fmt::format("<changedArea><start>{}</start><length>{}</length></changedArea>", area.offset, area.length);
  reply += "</returnval></QueryChangedDiskAreasResponse></Body></Envelope>";
  for (auto _ : state) {
    const vsphere::Reply decoded = vsphere::decode_reply(reply);
    benchmark::DoNotOptimize(vsphere::parse_changed_page(decoded.value["returnval"]));
  }
  rate(state);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(reply.size()));
}
BENCHMARK(changed_page)->Arg(2000);

// Of so many bytes, chunk by chunk: what fits the cache of a core, and what comes from memory.
void digests(benchmark::State& state) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(state.range(0)));
  std::mt19937_64 random(1);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (auto _ : state)
    for (std::size_t at = 0; at < bytes.size(); at += copy::Digests::chunk)
      benchmark::DoNotOptimize(copy::digest_of(std::span(bytes).subspan(at, copy::Digests::chunk)));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(digests)->Arg(256 * kib)->Arg(64 * mib);

}  // namespace

BENCHMARK_MAIN();
