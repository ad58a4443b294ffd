use onionskin::crypto::cgo::*;
use onionskin::crypto::secret::Secret;
use rand::SeedableRng;
use std::time::Instant;
fn main() {
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let keys = Secret::random(&mut rng);
    let mut l = RelayLayer::<2144>::new(&keys);
    let mut b = [0u8; 2144];
    for _ in 0..5 {
        let t = Instant::now();
        for _ in 0..200000 {
            l.inbound(3, &mut b);
        }
        println!("inbound {} ns", t.elapsed().as_nanos() / 200000);
    }
    let p = uiv::Prf::<2144>::new(&[1; 32]);
    let e = uiv::Et::<aes::Aes128Enc>::new(&[1; 32]);
    for _ in 0..3 {
        let t = Instant::now();
        for _ in 0..200000 {
            p.pad(&[3; 16], &mut b[16..]);
        }
        println!("pad {} ns", t.elapsed().as_nanos() / 200000);
        let mut blk = [0u8; 16];
        let t = Instant::now();
        for _ in 0..200000 {
            e.apply(&[3; 16], 3, &b[16..], &mut blk);
            std::hint::black_box(&blk);
        }
        println!("et {} ns", t.elapsed().as_nanos() / 200000);
        use polyval::universal_hash::UniversalHash;
        let pv = polyval::Polyval::new(&[1; 16].into());
        let (bl, _) = aes::cipher::Array::slice_as_chunks(&b[..]);
        let mut h = pv.clone();
        let t = Instant::now();
        for _ in 0..200000 {
            h.update(bl);
            std::hint::black_box(&h);
        }
        println!("polyval 2144 {} ns", t.elapsed().as_nanos() / 200000);
        let t = Instant::now();
        for _ in 0..200000 {
            let h = pv.clone();
            std::hint::black_box(h.finalize());
        }
        println!("clone+finalize {} ns", t.elapsed().as_nanos() / 200000);
        use ctr::cipher::{KeyIvInit, StreamCipher};
        let mut c = ctr::Ctr128BE::<aes::Aes128Enc>::new(&[1; 16].into(), &[2; 16].into());
        let t = Instant::now();
        for _ in 0..200000 {
            c.apply_keystream(&mut b[16..]);
            std::hint::black_box(&b);
        }
        println!("ctr {} ns", t.elapsed().as_nanos() / 200000);
    }
    println!("{} {} {}", size_of::<RelayLayer<2144>>(), size_of::<aes::Aes128Enc>(), size_of::<polyval::Polyval>());
}
