// Whether our declaration of a library's function is that of its header.
#pragma once

// Parameter lists: as many, each of the same size.
template <class A, class B>
constexpr bool kAlike = false;
template <class R, class... P, class S, class... Q>
constexpr bool kAlike<R (*)(P...), S (*)(Q...)> = [] {
  if constexpr (sizeof...(P) != sizeof...(Q)) {
    return false;
  } else {
    return sizeof(R) == sizeof(S) && ((sizeof(P) == sizeof(Q)) && ...);
  }
}();
