"""Trees and ways: no intermediate state has a loop, whatever happens in whatever order."""

from hypothesis import given
from hypothesis import strategies as st

from xenflow_app.topology import Edge, End, Graph, edge, forest, next_forest, next_paths, toward

NODES = "abcdef"


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    pairs = [(a, b) for a in NODES for b in NODES if a < b]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=12))
    ports = dict.fromkeys(NODES, 0)
    edges = []
    for a, b in chosen:
        ports[a] += 1
        ports[b] += 1
        edges.append(edge(End(a, ports[a]), End(b, ports[b])))
    kept = draw(st.sets(st.sampled_from(edges))) if edges else set()
    return Graph(kept or edges)


def components(edges: frozenset[Edge]) -> dict[str, str]:
    root = {node: node for node in NODES}

    def find(node: str) -> str:
        while root[node] != node:
            node = root[node]
        return node

    for link in edges:
        root[find(link.a.node)] = find(link.b.node)
    return {node: find(node) for node in NODES}


def is_forest(edges: frozenset[Edge]) -> bool:
    return len(set(components(edges).values())) == len(NODES) - len(edges)


members = st.sets(st.sampled_from(NODES))


@given(graphs(), members)
def test_a_forest_has_no_loop_and_connects_what_can_be_connected(graph: Graph, wanted: set[str]) -> None:
    tree = forest(graph, wanted, {})
    assert is_forest(tree)
    reach, joined = components(graph.edges), components(tree)
    for a in wanted:
        for b in wanted:
            assert (joined[a] == joined[b]) == (reach[a] == reach[b])
    leaves = [n for n in NODES if sum(n in (e.a.node, e.b.node) for e in tree) == 1]
    assert set(leaves) <= wanted


@given(st.lists(st.tuples(graphs(), members), min_size=1, max_size=5), st.integers(0, 3))
def test_every_state_between_two_forests_is_a_forest(changes: list[tuple[Graph, set[str]]], steps: int) -> None:
    active: frozenset[Edge] = frozenset()
    for graph, wanted in changes:
        target = forest(graph, wanted, {})
        for _ in range(steps):
            after = next_forest(active, target)
            # while a step is under way, each node has either the old or the new state
            assert is_forest(active | after)
            active = after
    while active != target:
        after = next_forest(active, target)
        assert is_forest(active | after)
        active = after


@given(graphs(), graphs(), members, st.sets(st.sampled_from(NODES)))
def test_nodes_that_are_away_never_close_a_loop(old: Graph, new: Graph, wanted: set[str], away: set[str]) -> None:
    before = forest(old, wanted, {})
    frozen = {node: {e for e in before if node in (e.a.node, e.b.node)} for node in away}
    graph = Graph(new.edges | before)
    active, target = before, forest(graph, wanted, frozen)
    while active != target:
        active = next_forest(active, target)
        # an edge floods as long as both ends have it; an end that is away keeps what it had
        floods = {e for e in active | before if all(e in (frozen.get(x.node, active)) for x in (e.a, e.b))}
        assert is_forest(frozenset(floods))


def follows(paths: dict[str, Edge], start: str, target: str) -> bool:
    """Tell whether a packet from `start` comes to an end: at the target, or where there is no way on."""
    seen = set()
    here = start
    while here != target and here in paths:
        if here in seen:
            return False
        seen.add(here)
        here = paths[here].beyond(here).node
    return True


@given(graphs(), st.sampled_from(NODES))
def test_ways_are_shortest(graph: Graph, target: str) -> None:
    paths = toward(graph, target, {})
    reach = components(graph.edges)
    assert set(paths) == {node for node in NODES if reach[node] == reach[target]} - {target}
    for node in paths:
        assert follows(paths, node, target)


@given(st.lists(graphs(), min_size=2, max_size=5), st.sampled_from(NODES), st.integers(0, 4), st.data())
def test_no_state_on_the_way_to_new_ways_has_a_loop(
    changes: list[Graph], target: str, steps: int, data: st.DataObject
) -> None:
    active: dict[str, Edge] = {}
    for graph in changes:
        wanted = toward(graph, target, {})
        for _ in range(steps):
            active = step(active, wanted, target, data)
    for _ in range(len(NODES) + 1):
        active = step(active, wanted, target, data)
    assert active == wanted


def step(active: dict[str, Edge], wanted: dict[str, Edge], target: str, data: st.DataObject) -> dict[str, Edge]:
    after = next_paths(active, wanted, target)
    # during the step any subset of the nodes has already turned
    turned = data.draw(st.sets(st.sampled_from(NODES)))
    mixed = {n: p for n in NODES if (p := (after if n in turned else active).get(n)) is not None}
    assert all(follows(mixed, node, target) for node in NODES)
    return after


@given(graphs(), graphs(), st.sampled_from(NODES), st.sets(st.sampled_from(NODES)))
def test_ways_around_nodes_that_are_away_have_no_loop(old: Graph, new: Graph, target: str, away: set[str]) -> None:
    active = toward(old, target, {})
    graph = Graph(old.edges | new.edges)
    wanted = toward(graph, target, {node: active.get(node) for node in away - {target}})
    assert all(follows(wanted, node, target) for node in NODES)
    for node in (away & wanted.keys()) - {target}:
        assert wanted[node] == active[node]
