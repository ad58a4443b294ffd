//! Every composition in `crypto` against committed vectors; where each file came from, and how to make it again, is told beside it.

#![expect(clippy::print_stdout, reason = "names the vector that fails")]

mod cgo {
    //! Counter Galois Onion: 94 public vectors at 509 bytes, and the independent reference at our own size.

    use onionskin::crypto::cgo::ClientLayers;
    use onionskin::crypto::cgo::RelayLayer;
    use onionskin::crypto::cgo::uiv;
    use serde_json::Value;

    /// Bytes of a hex field.
    fn hex(value: &Value) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(value.as_str().expect("a string").as_bytes()).expect("hex")
    }

    pub(super) fn array<const N: usize>(value: &Value) -> [u8; N] {
        hex(value).try_into().expect("a field of fixed length")
    }

    fn flag(value: &Value) -> bool {
        value.as_bool().expect("a flag")
    }

    fn body<const BODY: usize>(left: &[u8], right: &[u8]) -> [u8; BODY] {
        [left, right].concat().try_into().expect("a whole body")
    }

    fn state(value: &Value) -> ([u8; 64], [u8; 16], [u8; 16]) {
        (array(&value["K"]), array(&value["N"]), array(&value["T_prime"]))
    }

    /// Runs a list and counts it.
    fn each(file: &Value, list: &str, check: impl Fn(&Value)) -> usize {
        let list = file[list].as_array().expect("a list of vectors");
        for vector in list {
            println!("{} {}", file["name"], vector["label"]);
            check(vector);
        }
        list.len()
    }

    fn et(v: &Value) {
        let tweak = hex(&v["tweak"]);
        let ([previous @ .., ad], right) = tweak.split_first_chunk::<17>().expect("a tweak");
        let mut block = array(&v["input"]);
        if flag(&v["encrypt"]) {
            uiv::Et::<aes::Aes128Enc>::new(&array(&v["key"])).apply(previous, *ad, right, &mut block);
        } else {
            uiv::Et::<aes::Aes128Dec>::new(&array(&v["key"])).apply(previous, *ad, right, &mut block);
        }
        assert_eq!(block, array(&v["output"]));
    }

    fn prf<const BODY: usize>(v: &Value) {
        let prf = uiv::Prf::<BODY>::new(&array(&v["key"]));
        let tweak = array(&v["tweak"]);
        let out = if v["t"] == 0 {
            let mut pad = vec![0; BODY - uiv::BLOCK];
            prf.pad(&tweak, &mut pad);
            pad
        } else {
            prf.update(&tweak).expose().to_vec()
        };
        assert_eq!(out, hex(&v["output"]));
    }

    fn uiv<const BODY: usize>(v: &Value) {
        let key = array(&v["key"]);
        let [previous @ .., ad] = array::<17>(&v["tweak"]);
        let mut x = body::<BODY>(&hex(&v["x_left"]), &hex(&v["x_right"]));
        if flag(&v["encrypt"]) {
            uiv::UivEncrypt::new(&key).encrypt(&previous, ad, &mut x);
        } else {
            uiv::UivDecrypt::new(&key).decrypt(&previous, ad, &mut x);
        }
        assert_eq!(x, body(&hex(&v["y_left"]), &hex(&v["y_right"])));
    }

    fn update<const BODY: usize>(v: &Value) {
        let out = uiv::UivEncrypt::<BODY>::new(&array(&v["key"])).update(&array(&v["nonce"]));
        assert_eq!(out.expose()[..], [hex(&v["new_key"]), hex(&v["new_nonce"])].concat());
    }

    fn relay<const BODY: usize>(v: &Value) {
        let (k, n, t) = state(&v["state"]);
        let (out_k, out_n, out_t) = state(&v["out_state"]);
        let [ad] = array(&v["ad"]);
        let mut layer = RelayLayer::<BODY>::dangerously_from_state(&k, &n, &t);
        let mut cell = body(&hex(&v["tag"]), &hex(&v["body"]));
        if flag(&v["inbound"]) {
            layer.inbound(ad, &mut cell);
            assert!(layer.inbound_has_state(&out_k, &out_n, &out_t));
            assert!(layer.outbound_has_state(&k, &n, &t));
        } else {
            let recognised = layer.outbound(ad, &mut cell);
            assert_eq!(recognised, hex(&v["out_tag"]) == n);
            assert!(layer.outbound_has_state(&out_k, &out_n, &out_t));
            assert!(layer.inbound_has_state(&k, &n, &t));
            assert_eq!(recognised, !layer.outbound_has_state(&k, &n, &out_t), "keys move when a cell is recognised, and only then");
        }
        assert_eq!(cell, body(&hex(&v["out_tag"]), &hex(&v["out_body"])));
    }

    fn relay_originate<const BODY: usize>(v: &Value) {
        let (k, n, t) = state(&v["state"]);
        let (out_k, out_n, out_t) = state(&v["out_state"]);
        let [ad] = array(&v["ad"]);
        let mut layer = RelayLayer::<BODY>::dangerously_from_state(&k, &n, &t);
        let mut cell = body(&[0xaa; 16], &hex(&v["body"]));
        layer.originate(ad, &mut cell);
        assert_eq!(cell, body(&hex(&v["out_tag"]), &hex(&v["out_body"])));
        assert!(layer.inbound_has_state(&out_k, &out_n, &out_t));
        assert!(layer.outbound_has_state(&k, &n, &t));
    }

    fn client_originate<const BODY: usize>(v: &Value) {
        let mut client = ClientLayers::<BODY>::new();
        for s in v["states"].as_array().expect("states") {
            let (k, n, t) = state(s);
            client.dangerously_push_state(&k, &n, &t);
        }
        let hop = usize::try_from(v["hop"].as_u64().expect("a hop")).expect("a small number");
        let [ad] = array(&v["ad"]);
        let mut cell = body(&[0xaa; 16], &hex(&v["body"]));
        client.originate(hop - 1, ad, &mut cell);
        assert_eq!(cell, body(&hex(&v["out_tag"]), &hex(&v["out_body"])));
        for (i, s) in v["out_states"].as_array().expect("states").iter().enumerate() {
            let (k, n, t) = state(s);
            assert!(client.outbound_has_state(i, &k, &n, &t), "hop {i}");
        }
    }

    /// All lists of one body size; how many vectors they held.
    fn all<const BODY: usize>(file: impl Fn(&str) -> Value) -> usize {
        each(&file("et"), "vectors", et)
            + each(&file("prf"), "vectors", prf::<BODY>)
            + each(&file("uiv"), "vectors", uiv::<BODY>)
            + each(&file("uiv"), "update_vectors", update::<BODY>)
            + each(&file("relay"), "vectors", relay::<BODY>)
            + each(&file("relay"), "originate_vectors", relay_originate::<BODY>)
            + each(&file("client_originate"), "vectors", client_originate::<BODY>)
    }

    #[test]
    fn public_vectors_at_509_bytes() {
        assert_eq!((uiv::update_offset(509), uiv::cleared_bits(509)), (31, 6));
        let count = all::<509>(|name| {
            let text = match name {
                "et" => include_str!("vectors/cgo/et.json"),
                "prf" => include_str!("vectors/cgo/prf.json"),
                "uiv" => include_str!("vectors/cgo/uiv.json"),
                "relay" => include_str!("vectors/cgo/relay.json"),
                "client_originate" => include_str!("vectors/cgo/client_originate.json"),
                other => panic!("no file {other}"),
            };
            serde_json::from_str(text).expect("JSON")
        });
        assert_eq!(count, 94);
    }

    #[test]
    fn reference_vectors_at_our_size() {
        const BODY: usize = onionskin::wire::cell::BODY;
        let text = include_str!("vectors/cgo/body2144.json");
        let file: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!((uiv::update_offset(BODY), uiv::cleared_bits(BODY)), (133, 8));
        assert_eq!(all::<BODY>(|name| file[name].clone()), 56);
    }
}

mod ntor {
    //! The circuit handshake: its deterministic end, against an implementation of its own in `vectors/ntor.py`.

    use crate::cgo::array;
    use onionskin::base::NetworkId;
    use onionskin::base::NodeId;
    use onionskin::crypto::ntor;
    use onionskin::crypto::secret::Secret;
    use serde_json::Value;

    #[test]
    fn keys_and_proof_from_fixed_secrets() {
        let file: Value = serde_json::from_str(include_str!("vectors/ntor.json")).expect("JSON");
        let vectors = file["vectors"].as_array().expect("a list of vectors");
        assert_eq!(vectors.len(), 4);
        for v in vectors {
            let onion_key = ntor::OnionKey::from_bytes(Secret::new(array(&v["b"])));
            assert_eq!(onion_key.public(), array(&v["B"]));
            let shared = ["xy", "xb", "kem_shared"].map(|name| array::<32>(&v[name])).concat();
            let (auth, keys) = ntor::finish(
                &Secret::init(|out| out.copy_from_slice(&shared)),
                &ntor::Transcript {
                    net: &NetworkId(array(&v["net"])),
                    relay: &NodeId(array(&v["relay"])),
                    onion: &onion_key.public(),
                    x: &array(&v["X"]),
                    ek: &array(&v["kem_public"]),
                    y: &array(&v["Y"]),
                    ct: &array(&v["kem_ciphertext"]),
                },
            );
            assert_eq!(auth.expose(), &array(&v["auth"]));
            assert_eq!(keys.expose(), &array(&v["keys"]));
        }
    }
}
