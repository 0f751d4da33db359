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
    # Of the first tile, of those after it, of such as are not seen; and what is given first and taken last.
    if (turns_taken < 4 || turns_given < 4) missing("turns that are not taken or not given")
  }
  if (to_peers) {
    if (cluster_arrivals != 2 || cluster_waits != 2) missing("no barrier of the cluster at both ends")
    if (after_cluster) missing("barriers or copies after the last barrier of the cluster")
    if (!remote) missing("no arrival at the barriers of peers")
    if (plain) missing("a wait or an arrival that is the block\047s alone")
  }
}

/^(\.visible )?\.entry / {
  end_of_kernel()
  # Without the namespaces, as in cuda_compile.sh.
  kernel = substr($0, index($0, "_cu_") + 12)
  sub(/^[0-9]+/, "", kernel)
  sub(/\(.*/, "", kernel)
  waits = begun = counted = fenced = in_group = proxy_fences = groups = turns_taken = turns_given = 0
  split("", pair)
  to_peers = cluster_arrivals = cluster_waits = after_cluster = remote = plain = mapped = 0
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

# Turns: named barriers of two warpgroups, never amid a group of products.
/mov\.(u|b|s)32[ \t]+%r[0-9]+, 256;/ { pair[substr($2, 1, length($2) - 1)] = 1 }
/barrier\.cta\.(sync|arrive)\.aligned %r[0-9]+, / {
  if (!(substr($3, 1, length($3) - 1) in pair)) missing("a named barrier that is not of 256 threads")
  if (in_group) missing("a named barrier amid a group of products")
  if ($0 ~ /arrive/) ++turns_given
  else ++turns_taken
}

# Clusters: a barrier before the first copy to peers and one after everything; in between all waits acquire what
# peers do, and all arrivals but those that expect copies are at the barriers of peers, as mapa says where.
/barrier\.cluster\.arrive/ {
  if ($0 !~ /arrive\.release;/) missing("an arrival at the cluster that releases nothing")
  if (begun == 1) missing("barriers that no fence publishes to the cluster")
  ++cluster_arrivals
}
/barrier\.cluster\.wait/ {
  if ($0 !~ /wait\.acquire;/) missing("a wait for the cluster that acquires nothing")
  ++cluster_waits
  after_cluster = 0
}
/multicast::cluster/ {
  if (!cluster_waits) missing("copies to peers that may not have made their barriers")
  if ($0 !~ /%rs[0-9]+;/) missing("a copy to peers that does not say to whom")
  to_peers = 1
}
/mapa\.shared::cluster\.u32 there, / { mapped = 1 }
/mbarrier\.arrive\.release\.cluster\.shared::cluster\.b64 _, \[there\];/ {
  if (!mapped) missing("an arrival at no place of a peer")
  remote = 1
  mapped = 0
}
/mbarrier\.try_wait\.parity\.shared::cta|mbarrier\.arrive\.shared::cta/ { plain = 1 }
/mbarrier\.(arrive|try_wait)|cp\.async\.bulk\.tensor/ { after_cluster = 1 }

# last_arrival: a fence, the count, a fence. What embed counts is read by the host, what sample does by its
# own block.
/membar\.gl;/ { counted = 0 }
/atom\.(global\.)?[a-z]+\./ && kernel !~ /^(embed|embed_packed|sample)_kernel/ {
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
