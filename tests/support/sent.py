"""Bytes that a process sends to others, and the collectives that it calls."""

import torch.distributed as dist


class Sent:
    """Counts the bytes that this process sends to others, by wrapping the collectives.

    ``to`` has those that go to each process of the world; those of Gram matrices, which alone are
    summed as stacks of rectangles, go around a ring. ``grams`` counts such sums, ``gram_bytes``
    their bytes on one process, ``reduced`` those of all sums.
    """

    def __init__(self):
        self.bytes, self.reduced, self.calls = 0, 0, []
        self.grams = self.gram_bytes = 0
        self.to = [0] * dist.get_world_size()

    def __enter__(self):
        self.kept = dist.all_to_all_single, dist.broadcast, dist.all_reduce
        exchange, broadcast, reduce = self.kept
        me = dist.get_rank()

        def counted_exchange(output, given, out_sizes, sizes, group=None, async_op=False):
            self.calls.append("all_to_all_single")
            mine = sizes[dist.get_rank(group)]
            self.bytes += (sum(sizes) - mine) * given.element_size()
            self._add(group, [size * given.element_size() for size in sizes])
            return exchange(output, given, out_sizes, sizes, group=group, async_op=async_op)

        def counted_broadcast(tensor, source, group=None, async_op=False):
            self.calls.append("broadcast")
            if source == me:
                self.bytes += tensor.nbytes * (dist.get_world_size(group) - 1)
                self._add(group, [tensor.nbytes] * dist.get_world_size(group))
            return broadcast(tensor, source, group=group, async_op=async_op)

        def counted_reduce(tensor, *more, **options):
            self.calls.append("all_reduce")
            self.reduced += tensor.nbytes
            if tensor.ndim == 3:
                self.grams += 1
                self.gram_bytes += tensor.nbytes
                self._add_ring(options.get("group"), tensor.nbytes)
            return reduce(tensor, *more, **options)

        dist.all_to_all_single = counted_exchange
        dist.broadcast, dist.all_reduce = counted_broadcast, counted_reduce
        return self

    def _add(self, group, sizes):
        """Count what each process of a group is sent."""
        members = dist.get_process_group_ranks(group or dist.group.WORLD)
        for member, size in zip(members, sizes, strict=True):
            self.to[member] += size if member != dist.get_rank() else 0

    def _add_ring(self, group, size):
        """Count what the next process of a ring is sent of a sum."""
        group = group or dist.group.WORLD
        members = dist.get_process_group_ranks(group)
        after = members[(dist.get_rank(group) + 1) % len(members)]
        self.to[after] += 2 * size * (len(members) - 1) // len(members)

    def __exit__(self, *error):
        dist.all_to_all_single, dist.broadcast, dist.all_reduce = self.kept
