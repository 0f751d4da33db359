# What cuda/gpu.h and cuda/hopper.h wrap, looked for in the PTX of sm_90a, kernel by kernel: no emulation
# runs these words. Prints what is missing, and fails.
#
#   awk -f test/cuda_ptx.awk NAME.ptx...

function missing(what) {
  print kernel ": " what
  bad = 1
}

function end_of_kernel() {
  if (kernel == "") return
  if (!waits) missing("no griddepcontrol.wait")
  if (begun) missing("barriers that no fence publishes")
  if (counted) missing("no membar.gl after an atomic")
  if (in_group) missing("a wgmma that nothing commits")
  if (kernel ~ /attention_prompt_wgmma/) {
    # That of the barriers, and of what threads write for products.
    if (proxy_fences < 2) missing("no fence.proxy.async for what threads write")
    # Keys come first, whose columns lie side by side, values last, whose rows do.
    if (first_kind != 0 || kind != 1) missing("keys or values the wrong way round")
  }
}

/^(\.visible )?\.entry / {
  end_of_kernel()
  # Without the namespaces, as in cuda_compile.sh.
  kernel = substr($0, index($0, "_cu_") + 12)
  sub(/^[0-9]+/, "", kernel)
  sub(/\(.*/, "", kernel)
  waits = begun = counted = fenced = in_group = proxy_fences = groups = 0
  last = ""
}

/griddepcontrol\.wait;/ { waits = 1 }

# Barriers: mbarrier.init, both fences, then the block's barrier.
/mbarrier\.init\./ { begun = 1 }
/fence\.mbarrier_init\.release\.cluster;/ { if (begun) begun = 2 }
/fence\.proxy\.async\.shared::cta;/ {
  ++proxy_fences
  if (begun == 2) begun = 0
}
/(bar|barrier)(\.cta)?\.sync/ {
  if (begun) missing("barriers that no fence publishes")
  begun = 0
}

# last_arrival: a fence, the count, a fence. What embed counts is read by the host, what sample does by its
# own block.
/membar\.gl;/ { counted = 0 }
/atom\.(global\.)?[a-z]+\./ && kernel !~ /^(embed|sample)_kernel/ {
  if (last !~ /membar\.gl;/) missing("no membar.gl before an atomic")
  counted = 1
}
/(ld|st)\.global/ && counted {
  missing("no membar.gl after an atomic")
  counted = 0
}
/membar\.gl;|(ld|st|atom)\.global/ { last = $0 }

# Products: a fence, the products of a group, its commit. A group's products have B one way round.
/wgmma\.fence\.sync\.aligned;/ { fenced = 1 }
/wgmma\.mma_async/ {
  if (!fenced) missing("a wgmma without wgmma.fence")
  if ($0 !~ /, p, 1, 1, [01];/) missing("signs or order of a wgmma: " $0)
  own = $0 ~ /, 1;[^;]*$/
  if (in_group && own != kind) missing("a group of products with B both ways round")
  if (kernel ~ /gemm_decode/ && own) missing("activations the wrong way round")
  kind = own
  if (!groups && !in_group) first_kind = own
  in_group = 1
}
/wgmma\.commit_group\.sync\.aligned;/ {
  in_group = 0
  ++groups
}
/wgmma\.wait_group\.sync\.aligned/ {
  if (in_group) missing("a wait for a wgmma that nothing commits")
  fenced = 0
}

END {
  end_of_kernel()
  exit bad
}
