"""The sample application, fenced: what works, what is refused, and what a crash of each part does."""

from project import answers, docker, eventually, get, knock

BUY = "http://127.0.0.1:8000/cgi-bin/buy"
REFUND = "http://127.0.0.1:8000/cgi-bin/refund"
CHARGED = "web: orders: payments: charged\n"


def bought():
    return get(BUY) == ("200", CHARGED)


def test_the_unchanged_application_works_behind_its_sidecars(shop):
    eventually(bought)
    for caller, called in (("shop/web", "shop/orders"), ("shop/orders", "shop/payments")):
        line = eventually(lambda: edge_of(shop, caller, called))[0]
        assert "mutual" in line and "allowed" in line, line


def test_a_second_run_changes_nothing(shop):
    before = {service: shop.container(service) for service in ("web", "web-sidegate", "sidegate-control-plane")}
    text = (shop.folder / "compose.sidegate.yaml").read_text()
    shop.mesh()
    shop.up()
    assert (shop.folder / "compose.sidegate.yaml").read_text() == text
    assert {service: shop.container(service) for service in before} == before


def test_a_policy_that_is_edited_is_in_force_at_once(shop):
    eventually(bought)
    assert get(REFUND) == ("200", "web: orders: payments: refunded\n")
    policy = shop.folder / ".sidegate/policies/payments.yaml"
    open_to_all = policy.read_text()
    narrow = open_to_all.replace("to: [{ports: [8080]}]", "to: [{methods: [GET], paths: [/cgi-bin/charge]}]")
    assert narrow != open_to_all
    shop.write(".sidegate/policies/payments.yaml", narrow)
    _, took = eventually(lambda: "403 Forbidden" in get(REFUND)[1])
    print(f"in force after {took:.3f} s")
    assert took < 5.0
    # The first that was refused may have been on its way as the policy changed, and was cut then, by a code of its own.
    assert "403 Forbidden" in get(REFUND)[1]
    assert bought()
    assert eventually(lambda: edge_of(shop, "shop/orders", "shop/payments", "SG0202"))[0]
    shop.write(".sidegate/policies/payments.yaml", open_to_all)
    eventually(lambda: get(REFUND)[0] == "200" and "refunded" in get(REFUND)[1])


def test_nobody_outside_of_a_fence_reaches_an_application(shop):
    app = shop.address("payments", "payments-sidegate")
    sidecar = shop.address("payments-sidegate", "sidegate-mesh")
    fence = shop.address("orders-sidegate", "orders-sidegate")
    assert get(f"http://{app}:8080/cgi-bin/charge")[0] == "000"
    web = shop.address("web-sidegate", "sidegate-mesh")
    targets = [(app, "8080"), (fence, "8080"), (sidecar, "8080"), (sidecar, "15106"), (sidecar, "15120"), (web, "8080")]
    for network in ("bridge", "shop_sidegate-mesh"):
        run = ["run", "--rm", "--network", network, "busybox:stable", *knock("/cgi-bin/buy", *targets)]
        said = answers(docker(*run), targets)
        # That somebody who is let onto the mesh reaches a published port shows that the others were really asked.
        published = said.pop((web, "8080"))
        assert ("charged" in published) == (network != "bridge"), (network, published)
        assert not any("HTTP/1" in text for text in said.values()), (network, said)


def test_an_application_reaches_its_upstreams_and_nothing_else(shop):
    mesh = shop.address("web-sidegate", "sidegate-mesh")
    control_plane = shop.address("sidegate-control-plane", "sidegate-mesh")
    gateway = mesh.rsplit(".", 2)[0] + ".0.1"
    targets = [(mesh, "8080"), (control_plane, "15110"), (gateway, "8000"), ("192.0.2.1", "80"), ("payments", "8080"),
               ("web-sidegate", "15120"), ("web-sidegate", "15106"), ("orders", "8080")]
    said = answers(shop.inside("web", *knock("/cgi-bin/order", *targets)), targets)
    assert "payments: charged" in said.pop(("orders", "8080"))
    assert not any("HTTP/1" in text for text in said.values()), said


def test_sidecars_and_control_plane_have_no_privileges(shop):
    for service in ("web-sidegate", "sidegate-control-plane"):
        container = shop.inspect(service)
        host = container["HostConfig"]
        assert container["Config"]["User"] == "65532:65532"
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        token = (shop.folder / ".sidegate/tokens/web").read_text()
        assert token not in str(container)
        status = open(f"/proc/{container['State']['Pid']}/status").read()
        assert "CapEff:\t0000000000000000" in status and "CapBnd:\t0000000000000000" in status
    labels = shop.inspect("web-sidegate")["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_an_application_that_restarts_is_found_again(shop):
    for service in ("payments", "web"):
        shop.compose("restart", "-t", "1", service)
        eventually(bought)


def test_without_its_sidecar_an_application_is_reached_by_nobody(shop):
    app = shop.address("payments", "payments-sidegate")
    docker("stop", "-t", "1", shop.container("payments-sidegate"))
    assert "charged" not in get(BUY)[1]
    assert get(f"http://{app}:8080/cgi-bin/charge")[0] == "000"
    docker("start", shop.container("payments-sidegate"))
    eventually(bought)


def test_a_sidecar_that_crashes_is_back_and_so_is_its_application(shop):
    for service in ("payments-sidegate", "web-sidegate"):
        before = shop.kill(service)
        eventually(lambda: shop.inspect(service)["State"]["Pid"] not in (0, before))
        eventually(bought)


def test_calls_go_on_without_the_control_plane_even_of_a_sidecar_that_restarts(shop):
    docker("stop", "-t", "1", shop.container("sidegate-control-plane"))
    assert bought()
    shop.kill("orders-sidegate")
    eventually(bought)
    docker("start", shop.container("sidegate-control-plane"))
    shop.healthy("sidegate-control-plane")
    shop.kill("sidegate-control-plane")
    shop.healthy("sidegate-control-plane")
    eventually(lambda: "3 of 3 connected" in status_of(shop))
    assert bought()


def edge_of(shop, caller, called, word="allowed"):
    """The line of `sidegate get edges` for these two, with this word in it."""
    lines = shop.inside("sidegate-control-plane", "/sidegate", "get", "edges").splitlines()
    return next((line for line in lines if line.split()[:2] == [caller, called] and word in line), None)


def status_of(shop):
    return shop.inside("sidegate-control-plane", "/sidegate", "status")
